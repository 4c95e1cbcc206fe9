import { type Tokenizer, wordLevelTokenizer } from "../../../models/index.js";
import { words } from "./game.js";

const template =
  "{% for message in messages %}{{ '<' + message.role + '> ' + message.content + ' <end> ' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}";

/** The game's tokenizer: one token a word, and the chat template that goes with it. */
export function quickstartTokenizer(): Tokenizer {
  return wordLevelTokenizer({
    words,
    specialTokens: ["<pad>", "<unknown>", "<end>", "<user>", "<assistant>"],
    unknown: "<unknown>",
    config: { chatTemplate: template, eosToken: "<end>", padToken: "<pad>" },
  });
}
