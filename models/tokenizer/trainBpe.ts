import { InputError } from "../../lib/errors.js";
import { BpeTokenizer } from "./bpe.js";
import { byteOrder, byteSymbols, byteToChar, writeUtf16 } from "./byteLevel.js";
import { newSpecialTokens, newTokenizerFiles } from "./files.js";
import { Heap } from "./heap.js";
import { nfc } from "./nfc.js";
import { preTokenizers, QWEN_PATTERN } from "./pretokenize.js";
import type { Tokenizer, TokenizerConfig } from "./tokenizer.js";
import { readTokenizerJson } from "./tokenizerJson.js";
import { WordTable } from "./wordTable.js";

/** Pairs of ids are keyed by left × this + right, which is exact. */
const MAX_VOCAB = 1 << 16;

/**
 * Trains a byte-level BPE tokenizer with Qwen's normalization and pre-tokenization. Ids: the 256 bytes, one per merge,
 * then `specialTokens`. The most frequent pair is merged next, of equally frequent ones the one with the lowest ids, so
 * the result depends on the texts alone. Training stops before `vocabSize` when no pair occurs twice.
 * @throws InputError when `vocabSize` does not hold the bytes and the special tokens.
 */
export async function trainBpe(
  texts: Iterable<string> | AsyncIterable<string>,
  options: { readonly vocabSize: number; readonly specialTokens: readonly string[]; readonly config?: TokenizerConfig },
): Promise<Tokenizer> {
  const { vocabSize, specialTokens, config = {} } = options;
  const least = 256 + specialTokens.length;
  if (!(vocabSize >= least && vocabSize <= MAX_VOCAB)) {
    throw new InputError(
      `vocabSize is ${vocabSize}; it must be from ${least} (bytes and special tokens) to ${MAX_VOCAB}`,
    );
  }
  const tokens = byteOrder.map((byte) => byteToChar[byte]);
  const merges = learnMerges(await countWords(texts), tokens, vocabSize - specialTokens.length);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  const split = { type: "Split", pattern: { Regex: QWEN_PATTERN }, behavior: "Isolated", invert: false };
  const files = newTokenizerFiles(
    {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: newSpecialTokens(specialTokens, tokens.length),
      normalizer: { type: "NFC" },
      pre_tokenizer: { type: "Sequence", pretokenizers: [split, byteLevel] },
      post_processor: byteLevel,
      decoder: byteLevel,
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
        fuse_unk: false,
        byte_fallback: false,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: merges.map(([left, right]) => `${tokens[left]} ${tokens[right]}`),
      },
    },
    config,
  );
  return new BpeTokenizer(readTokenizerJson(files), files);
}

/** A distinct word: its token ids so far and how often it occurs. */
interface Word {
  symbols: number[];
  readonly count: number;
}

async function countWords(texts: Iterable<string> | AsyncIterable<string>): Promise<Word[]> {
  const preTokenize = preTokenizers.get(QWEN_PATTERN)!;
  const table = new WordTable();
  const counts: number[] = [];
  for await (const text of texts) {
    const normalized = nfc(text);
    const units = new Uint16Array(normalized.length);
    writeUtf16(normalized, units);
    for (let start = 0, end = 0; start < units.length; start = end) {
      end = preTokenize(units, start, units.length);
      const word = table.intern(units, start, end);
      counts[word] = (counts[word] ?? 0) + 1;
    }
  }
  const byteIds = new Int32Array(256);
  for (const [id, byte] of byteOrder.entries()) byteIds[byte] = id;
  return counts.map((count, word) => {
    const units = table.word(word);
    const symbols = new Int32Array(3 * units.length);
    return { symbols: Array.from(symbols.subarray(0, byteSymbols(units, 0, units.length, byteIds, symbols))), count };
  });
}

/** A pair of token ids, how often it occurs, and the words that have it or had it once. */
interface Pair {
  readonly left: number;
  readonly right: number;
  count: number;
  readonly words: Set<Word>;
}

/**
 * Learns merges, as pairs of ids, until `tokens` has `size` entries, to which it adds the tokens that they make. A text
 * that two merges make is one token.
 */
function learnMerges(words: readonly Word[], tokens: string[], size: number): [left: number, right: number][] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const pairs = new Map<number, Pair>();
  const changed = new Set<Pair>();
  const count = (word: Word, sign: 1 | -1) => {
    for (let i = 0; i + 1 < word.symbols.length; i++) {
      const [left, right] = [word.symbols[i], word.symbols[i + 1]];
      const key = left * MAX_VOCAB + right;
      let pair = pairs.get(key);
      if (pair === undefined) pairs.set(key, (pair = { left, right, count: 0, words: new Set() }));
      pair.count += sign * word.count;
      if (sign > 0) pair.words.add(word);
      changed.add(pair);
    }
  };
  const heap = new Heap<Candidate>(isBefore);
  const offerChanged = () => {
    for (const pair of changed) if (pair.count > 1) heap.push({ pair, count: pair.count });
    changed.clear();
  };

  for (const word of words) count(word, 1);
  offerChanged();
  const merges: [number, number][] = [];
  while (tokens.length < size) {
    const best = heap.pop();
    if (best === undefined) break;
    const { pair } = best;
    if (best.count !== pair.count) continue; // out of date: the pair was offered again since
    const text = tokens[pair.left] + tokens[pair.right];
    const id = ids.get(text) ?? tokens.push(text) - 1;
    ids.set(text, id);
    merges.push([pair.left, pair.right]);
    for (const word of pair.words) {
      const symbols = mergedSymbols(word.symbols, pair, id);
      if (symbols.length === word.symbols.length) continue;
      count(word, -1);
      word.symbols = symbols;
      count(word, 1);
    }
    pairs.delete(pair.left * MAX_VOCAB + pair.right);
    offerChanged();
  }
  return merges;
}

/** A pair with its count when it was offered. */
interface Candidate {
  readonly pair: Pair;
  readonly count: number;
}

function isBefore(a: Candidate, b: Candidate): boolean {
  if (a.count !== b.count) return a.count > b.count;
  return a.pair.left !== b.pair.left ? a.pair.left < b.pair.left : a.pair.right < b.pair.right;
}

/** `symbols` with each occurrence of the pair, from the left, replaced by `id`. */
function mergedSymbols(symbols: readonly number[], { left, right }: Pair, id: number): number[] {
  const result: number[] = [];
  for (let i = 0; i < symbols.length; i++) {
    const found = symbols[i] === left && symbols[i + 1] === right;
    result.push(found ? id : symbols[i]);
    if (found) i++;
  }
  return result;
}
