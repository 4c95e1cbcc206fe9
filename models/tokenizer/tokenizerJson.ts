import { join } from "node:path";
import { InputError } from "../../lib/errors.js";
import { type Splitter, splitter } from "./addedTokens.js";
import { isObject, readJson, type TokenizerFiles } from "./files.js";

/** A part of the pipeline: `type` and its parameters. */
export type Component = { readonly type: string } & Readonly<Record<string, unknown>>;

/** A token beside the model's vocabulary. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Matched only where special tokens are asked for, and left out of decoded text. */
  readonly special: boolean;
  /** Matched in the normalized text instead of the original. */
  readonly normalized: boolean;
}

/** A tokenizer.json; `truncation`, `padding` and `post_processor` act on calls that this library does not make. */
export interface TokenizerJson {
  readonly addedTokens: readonly AddedToken[];
  readonly normalizer: Component | null;
  readonly preTokenizer: Component | null;
  readonly decoder: Component | null;
  readonly model: Component;
  /** An error about this file. */
  error(problem: string): InputError;
}

export function readTokenizerJson(files: TokenizerFiles): TokenizerJson {
  const path = join(files.directory, "tokenizer.json");
  const json = readJson(files, "tokenizer.json");
  const error = (problem: string) => new InputError(`${path}: ${problem}`);
  const component = (key: string): Component | null => {
    const value = json[key] ?? null;
    if (value !== null && !(isObject(value) && typeof value.type === "string")) throw error(`${key} has no type`);
    return value as Component | null;
  };
  const model = component("model");
  if (model === null) throw error("has no model");
  return {
    addedTokens: addedTokens(json.added_tokens ?? [], error),
    normalizer: component("normalizer"),
    preTokenizer: component("pre_tokenizer"),
    decoder: component("decoder"),
    model,
    error,
  };
}

const isId = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 24;

/** Ids of the model's vocabulary by the token's spelling. */
export function readVocabulary({ model, error }: TokenizerJson): Map<string, number> {
  if (!isObject(model.vocab)) throw error("model.vocab is not an object");
  const vocab = new Map<string, number>();
  const ids = new Set<number>();
  for (const [token, id] of Object.entries(model.vocab)) {
    if (!isId(id)) throw error(`model.vocab[${JSON.stringify(token)}] is not a token id`);
    if (ids.has(id)) throw error(`model.vocab gives id ${id} to two tokens`);
    ids.add(id);
    vocab.set(token, id);
  }
  return vocab;
}

function addedTokens(value: unknown, error: TokenizerJson["error"]): AddedToken[] {
  if (!Array.isArray(value)) throw error("added_tokens is not a list");
  return value.map((token) => {
    if (!isObject(token) || !isId(token.id) || typeof token.content !== "string" || token.content === "") {
      throw error("added_tokens has an entry without id or content");
    }
    for (const flag of ["single_word", "lstrip", "rstrip"]) {
      if (token[flag]) throw error(`added token ${token.content}: ${flag} is not supported`);
    }
    return {
      id: token.id,
      content: token.content,
      special: token.special === true,
      normalized: token.normalized === true,
    };
  });
}

/** The text of `tokens` cut out of a text, first where it stands in the original, then in the normalized text. */
export function addedTokenSplitter(tokens: readonly AddedToken[], normalize: (text: string) => string): Splitter {
  const idsOf = (chosen: AddedToken[]) => new Map(chosen.map(({ content, id }) => [content, id]));
  const original = splitter(idsOf(tokens.filter((token) => !token.normalized)));
  const normalized = splitter(
    idsOf(tokens.filter((token) => token.normalized).map((token) => ({ ...token, content: normalize(token.content) }))),
  );
  return (text) =>
    original(text).flatMap((piece) => (typeof piece === "number" ? piece : normalized(normalize(piece))));
}

/** Ids of the special ones among `tokens` by their text. */
export function specialTokenIds(tokens: readonly AddedToken[]): Map<string, number> {
  return new Map(tokens.filter((token) => token.special).map(({ content, id }) => [content, id]));
}
