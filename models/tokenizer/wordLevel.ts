import { InputError } from "../../lib/errors.js";
import type { Splitter } from "./addedTokens.js";
import { codePoints } from "./charClass.js";
import {
  newSpecialTokens,
  newTokenizerFiles,
  readTokenizerConfig,
  type TokenizerFiles,
  writeTokenizerFiles,
} from "./files.js";
import type { Tokenizer, TokenizerConfig } from "./tokenizer.js";
import {
  addedTokenSplitter,
  readTokenizerJson,
  readVocabulary,
  specialTokenIds,
  type TokenizerJson,
} from "./tokenizerJson.js";
import { SPACES } from "./unicode.js";

const spaces = new RegExp(`[${String.fromCodePoint(...codePoints(SPACES))}]+`);

const utf8 = new TextEncoder();

/** One token per word between white space; what the vocabulary lacks is the unknown token. Decoding joins with blanks. */
export class WordLevelTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly config: TokenizerConfig;
  readonly #files: TokenizerFiles;
  readonly #splitPlain: Splitter;
  readonly #splitSpecial: Splitter;
  readonly #tokens: readonly string[];
  /** Ids by word, special tokens left out: typed by a user they are unknown words. */
  readonly #ids: ReadonlyMap<string, number>;
  readonly #unknown: number;

  /** @throws InputError when the file has a normalizer, a pre-tokenizer other than WhitespaceSplit or a decoder. */
  constructor(json: TokenizerJson, files: TokenizerFiles) {
    const { normalizer, preTokenizer, decoder, model, addedTokens } = json;
    if (normalizer !== null) throw json.error(`normalizer ${normalizer.type} is not supported for WordLevel`);
    if (preTokenizer?.type !== "WhitespaceSplit") {
      throw json.error(
        `pre_tokenizer ${preTokenizer?.type} is not supported for WordLevel; supported: WhitespaceSplit`,
      );
    }
    if (decoder !== null) throw json.error(`decoder ${decoder.type} is not supported for WordLevel; supported: none`);
    const vocab = readVocabulary(json);
    const unknown = vocab.get(String(model.unk_token));
    if (unknown === undefined) throw json.error(`model.unk_token ${model.unk_token} is not in model.vocab`);
    const tokens: string[] = [];
    for (const [token, id] of vocab) tokens[id] = token;
    for (const { id, content } of addedTokens) tokens[id] = content;

    this.#files = files;
    this.#tokens = tokens;
    this.#unknown = unknown;
    this.config = readTokenizerConfig(files);
    this.vocabSize = tokens.length;
    this.specialTokens = specialTokenIds(addedTokens);
    this.#ids = new Map([...vocab].filter(([token]) => !this.specialTokens.has(token)));
    const same = (text: string) => text;
    this.#splitSpecial = addedTokenSplitter(addedTokens, same);
    this.#splitPlain = addedTokenSplitter(
      addedTokens.filter((token) => !token.special),
      same,
    );
  }

  encode(text: string, { specialTokens = false }: { specialTokens?: boolean } = {}): number[] {
    return (specialTokens ? this.#splitSpecial : this.#splitPlain)(text).flatMap((piece) =>
      typeof piece === "number" ? piece : this.#encodeWords(piece),
    );
  }

  decode(ids: Iterable<number>, { specialTokens = false }: { specialTokens?: boolean } = {}): string {
    return Array.from(ids, (id) => this.#tokens[id])
      .filter((token) => token !== undefined && (specialTokens || !this.specialTokens.has(token)))
      .join(" ");
  }

  bytes(id: number, { first = false }: { first?: boolean } = {}): Uint8Array {
    const token = this.#tokens[id];
    const isText = token !== undefined && !this.specialTokens.has(token);
    return utf8.encode(isText ? `${first ? "" : " "}${token}` : "");
  }

  save(directory: string): Promise<void> {
    return writeTokenizerFiles(this.#files, directory);
  }

  #encodeWords(text: string): number[] {
    const words = text.split(spaces).filter((word) => word !== "");
    return words.map((word) => this.#ids.get(word) ?? this.#unknown);
  }
}

/**
 * A word-level tokenizer from a word list: ids 0, 1, … go to `specialTokens`, then to `words`, in their order. `unknown`
 * must be one of either.
 * @throws InputError when a word occurs twice, is empty or has white space.
 */
export function wordLevelTokenizer(options: {
  readonly words: readonly string[];
  readonly specialTokens: readonly string[];
  readonly unknown: string;
  readonly config?: TokenizerConfig;
}): Tokenizer {
  const { words, specialTokens, unknown, config = {} } = options;
  const tokens = [...specialTokens, ...words];
  const blank = tokens.find((token) => token === "" || spaces.test(token));
  if (blank !== undefined) throw new InputError(`word ${JSON.stringify(blank)} is empty or has white space`);
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const twice = tokens.find((token, id) => ids.get(token) !== id);
  if (twice !== undefined) throw new InputError(`word ${JSON.stringify(twice)} occurs twice`);
  const files = newTokenizerFiles(
    {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: newSpecialTokens(specialTokens, 0),
      normalizer: null,
      pre_tokenizer: { type: "WhitespaceSplit" },
      post_processor: null,
      decoder: null,
      model: {
        type: "WordLevel",
        vocab: Object.fromEntries(ids),
        unk_token: unknown,
      },
    },
    { ...config, unkToken: unknown },
  );
  return new WordLevelTokenizer(readTokenizerJson(files), files);
}
