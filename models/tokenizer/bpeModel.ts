import { byteToChar, tokenBytes } from "./byteLevel.js";
import { isObject } from "./files.js";
import { Merges } from "./merges.js";
import { nfc } from "./nfc.js";
import { GPT2_PATTERN, type PreTokenizer, preTokenizers } from "./pretokenize.js";
import { type Component, readVocabulary, type TokenizerJson } from "./tokenizerJson.js";

/** What a byte-level BPE tokenizer.json says, ready for use. */
export interface BpeModel {
  readonly normalize: (text: string) => string;
  readonly preTokenize: PreTokenizer;
  readonly merges: Merges;
  /** Id of each byte's token. */
  readonly byteIds: Int32Array;
  /** Bytes of token i: bytes[byteStarts[i] … byteStarts[i + 1]). */
  readonly bytes: Uint8Array;
  readonly byteStarts: Int32Array;
}

/** @throws InputError when the file asks for something that is not byte-level BPE as GPT-2 and Qwen have it. */
export function readBpeModel(json: TokenizerJson): BpeModel {
  checkModel(json.model, json);
  if (json.decoder?.type !== "ByteLevel") {
    throw json.error(`decoder ${json.decoder?.type ?? "none"} is not supported for BPE; supported: ByteLevel`);
  }
  const vocab = readVocabulary(json);
  return {
    normalize: normalizer(json),
    preTokenize: preTokenizer(json),
    merges: new Merges(mergePairs(json, vocab)),
    byteIds: Int32Array.from(byteToChar, (char, byte) => {
      const id = vocab.get(char);
      if (id === undefined) throw json.error(`model.vocab lacks byte ${byte} (${char}): not a byte-level vocabulary`);
      return id;
    }),
    ...tokenTable(json, vocab),
  };
}

/** Settings of the model that change ids and that Qwen and GPT-2 leave off. */
function checkModel(model: Component, { error }: TokenizerJson): void {
  const unsupported = ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"];
  for (const key of unsupported) if (model[key]) throw error(`model.${key} is not supported`);
}

function normalizer({ normalizer, error }: TokenizerJson): (text: string) => string {
  if (normalizer === null) return (text) => text;
  const steps = sequence(normalizer, "normalizers");
  if (steps.every((step) => step.type === "NFC")) return nfc;
  throw error(`normalizer ${steps.map((step) => step.type).join(" + ")} is not supported; supported: none, NFC`);
}

function preTokenizer({ preTokenizer, error }: TokenizerJson): PreTokenizer {
  const steps = preTokenizer === null ? [] : sequence(preTokenizer, "pretokenizers");
  const types = steps.map((step) => step.type).join(" + ");
  const byteLevel = steps.at(-1);
  if (byteLevel?.type !== "ByteLevel" || !(types === "ByteLevel" || types === "Split + ByteLevel")) {
    throw error(`pre_tokenizer ${types || "none"} is not supported for BPE; supported: ByteLevel, Split + ByteLevel`);
  }
  if (byteLevel.add_prefix_space) throw error("pre_tokenizer add_prefix_space is not supported");
  if (steps.length === 1) {
    if (byteLevel.use_regex === false) throw error("pre_tokenizer ByteLevel without use_regex is not supported");
    return preTokenizers.get(GPT2_PATTERN)!;
  }
  const { pattern, behavior, invert } = steps[0];
  const regex = isObject(pattern) ? pattern.Regex : undefined;
  const scanner = preTokenizers.get(String(regex));
  if (scanner === undefined || behavior !== "Isolated" || invert || byteLevel.use_regex !== false) {
    throw error(
      `pre_tokenizer splits at ${JSON.stringify(pattern)}, which is not supported; supported: the patterns of Qwen2, ` +
        "Qwen2.5, Qwen3 and GPT-2",
    );
  }
  return scanner;
}

/** The steps of a Sequence, or the one step itself. */
function sequence(component: Component, key: string): Component[] {
  const steps = component.type === "Sequence" ? component[key] : [component];
  return Array.isArray(steps) ? steps.filter((step): step is Component => isObject(step)) : [];
}

/** Merges in order of rank, written as "a b" or as ["a", "b"]. */
function mergePairs(
  { model, addedTokens, error }: TokenizerJson,
  vocab: ReadonlyMap<string, number>,
): [number, number, number][] {
  if (!Array.isArray(model.merges)) throw error("model.merges is not a list");
  const special = new Set(addedTokens.filter((token) => token.special).map((token) => token.id));
  return model.merges.map((merge: unknown, rank) => {
    const [left, right, ...rest] = typeof merge === "string" ? merge.split(" ") : Array.isArray(merge) ? merge : [];
    const ids = [vocab.get(left), vocab.get(right), vocab.get(`${left}${right}`)] as [number, number, number];
    if (rest.length > 0 || ids.includes(undefined as never)) {
      throw error(`model.merges[${rank}] is ${JSON.stringify(merge)}, not two tokens whose joint text is a token too`);
    }
    if (special.has(ids[2])) throw error(`model.merges[${rank}] makes a special token out of plain text`);
    return ids;
  });
}

/** Bytes of every token; an added token's are its content. */
function tokenTable(
  { addedTokens, error }: TokenizerJson,
  vocab: ReadonlyMap<string, number>,
): Pick<BpeModel, "bytes" | "byteStarts"> {
  const encoder = new TextEncoder();
  const tokens: Uint8Array[] = [];
  for (const [token, id] of vocab) tokens[id] = tokenBytes(token) ?? encoder.encode(token);
  const added = new Set<number>();
  for (const { id, content } of addedTokens) {
    if (added.has(id)) throw error(`added_tokens gives id ${id} to two tokens`);
    if ((vocab.get(content) ?? id) !== id) throw error(`added token ${content} has another id in model.vocab`);
    added.add(id);
    tokens[id] = encoder.encode(content);
  }
  const byteStarts = new Int32Array(tokens.length + 1);
  for (let id = 0; id < tokens.length; id++) byteStarts[id + 1] = byteStarts[id] + (tokens[id]?.length ?? 0);
  const bytes = new Uint8Array(byteStarts[tokens.length]);
  for (const [id, token] of tokens.entries()) if (token !== undefined) bytes.set(token, byteStarts[id]);
  return { bytes, byteStarts };
}
