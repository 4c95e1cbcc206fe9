import { type Tokenizer, wordLevelTokenizer } from "../../../models/index.js";
import { words } from "./game.js";

const template =
  "{% for message in messages %}{{ '<' + message.role + '> ' + message.content + ' <end> ' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}";

/** The game's tokenizer. */
export function quickstartTokenizer(): Tokenizer {
  return gameTokenizer(words);
}

/** One token a word, and the chat template that goes with it. */
export function gameTokenizer(vocabulary: readonly string[]): Tokenizer {
  return wordLevelTokenizer({
    words: vocabulary,
    specialTokens: ["<pad>", "<unknown>", "<end>", "<user>", "<assistant>"],
    unknown: "<unknown>",
    config: { chatTemplate: template, eosToken: "<end>", padToken: "<pad>" },
  });
}
