import { join } from "node:path";
import { InputError } from "../../lib/errors.js";
import { BpeTokenizer } from "./bpe.js";
import { readTokenizerFiles } from "./files.js";
import { sentencePieceTokenizer } from "./sentencepiece.js";
import type { Tokenizer } from "./tokenizer.js";
import { readTokenizerJson } from "./tokenizerJson.js";
import { WordLevelTokenizer } from "./wordLevel.js";

export type { Tokenizer, TokenizerConfig } from "./tokenizer.js";
export { trainBpe } from "./trainBpe.js";
export { wordLevelTokenizer } from "./wordLevel.js";

/**
 * The tokenizer of a Hugging Face model folder: its tokenizer.json (byte-level BPE as Qwen and GPT-2 have it, or word
 * level), else its tokenizer.model (SentencePiece).
 * @throws InputError when there is none, or it is broken or of another kind.
 */
export async function loadTokenizer(directory: string): Promise<Tokenizer> {
  const files = await readTokenizerFiles(directory);
  if (!files.contents.has("tokenizer.json")) {
    if (files.contents.has("tokenizer.model")) return sentencePieceTokenizer(files);
    throw new InputError(
      `${directory}: has neither tokenizer.json nor tokenizer.model; give the path of a model folder`,
    );
  }
  const json = readTokenizerJson(files);
  if (json.model.type === "BPE") return new BpeTokenizer(json, files);
  if (json.model.type === "WordLevel") return new WordLevelTokenizer(json, files);
  throw new InputError(
    `${join(directory, "tokenizer.json")}: model type ${json.model.type} is not supported; supported: BPE, WordLevel`,
  );
}
