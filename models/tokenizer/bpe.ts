import type { Splitter } from "./addedTokens.js";
import { type BpeModel, readBpeModel } from "./bpeModel.js";
import { byteSymbols, writeUtf16 } from "./byteLevel.js";
import { readTokenizerConfig, type TokenizerFiles, writeTokenizerFiles } from "./files.js";
import type { Tokenizer, TokenizerConfig } from "./tokenizer.js";
import { addedTokenSplitter, specialTokenIds, type TokenizerJson } from "./tokenizerJson.js";
import { grown, WordTable } from "./wordTable.js";

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Longer words are not cached. */
const CACHED_UNITS = 64;
const CACHED_WORDS = 1 << 16;
const CACHED_IDS = 1 << 20;

/** Byte-level byte-pair encoding as GPT-2 and Qwen have it. */
export class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly config: TokenizerConfig;
  readonly #files: TokenizerFiles;
  readonly #model: BpeModel;
  readonly #splitPlain: Splitter;
  readonly #splitSpecial: Splitter;
  readonly #isSpecial: Uint8Array;

  #units = new Uint16Array(1 << 12);
  #symbols = new Int32Array(1 << 12);
  readonly #words = new WordTable();
  /** Ids of cached word w: #wordIds[#wordStarts[w] … #wordStarts[w + 1]). */
  #wordIds = new Int32Array(1 << 12);
  readonly #wordStarts = new Int32Array(CACHED_WORDS + 1);

  /** @throws InputError when the file asks for something that is not byte-level BPE. */
  constructor(json: TokenizerJson, files: TokenizerFiles) {
    this.#files = files;
    this.#model = readBpeModel(json);
    this.config = readTokenizerConfig(files);
    this.vocabSize = this.#model.byteStarts.length - 1;
    this.specialTokens = specialTokenIds(json.addedTokens);
    const plainTokens = json.addedTokens.filter((token) => !token.special);
    this.#splitPlain = addedTokenSplitter(plainTokens, this.#model.normalize);
    this.#splitSpecial = addedTokenSplitter(json.addedTokens, this.#model.normalize);
    this.#isSpecial = new Uint8Array(this.vocabSize);
    for (const id of this.specialTokens.values()) this.#isSpecial[id] = 1;
  }

  encode(text: string, { specialTokens = false }: { specialTokens?: boolean } = {}): number[] {
    const ids: number[] = [];
    for (const piece of (specialTokens ? this.#splitSpecial : this.#splitPlain)(text)) {
      if (typeof piece === "number") ids.push(piece);
      else this.#encodePlain(piece, ids);
    }
    return ids;
  }

  decode(ids: Iterable<number>, { specialTokens = false }: { specialTokens?: boolean } = {}): string {
    const kept = Array.from(ids).filter((id) => id in this.#isSpecial && (specialTokens || !this.#isSpecial[id]));
    const { bytes, byteStarts } = this.#model;
    const text = new Uint8Array(kept.reduce((total, id) => total + byteStarts[id + 1] - byteStarts[id], 0));
    let length = 0;
    for (const id of kept) for (let i = byteStarts[id]; i < byteStarts[id + 1]; i++) text[length++] = bytes[i];
    return utf8.decode(text);
  }

  bytes(id: number): Uint8Array {
    const { bytes, byteStarts } = this.#model;
    return id in this.#isSpecial && !this.#isSpecial[id]
      ? bytes.slice(byteStarts[id], byteStarts[id + 1])
      : new Uint8Array();
  }

  save(directory: string): Promise<void> {
    return writeTokenizerFiles(this.#files, directory);
  }

  #encodePlain(text: string, ids: number[]): void {
    if (text.length > this.#units.length) this.#units = new Uint16Array(2 * text.length);
    const units = this.#units;
    writeUtf16(text, units);
    for (let start = 0, end = 0; start < text.length; start = end) {
      end = this.#model.preTokenize(units, start, text.length);
      if (end - start > CACHED_UNITS) {
        const count = this.#encodeWord(units, start, end);
        for (let i = 0; i < count; i++) ids.push(this.#symbols[i]);
      } else {
        const word = this.#cachedWord(units, start, end);
        for (let i = this.#wordStarts[word]; i < this.#wordStarts[word + 1]; i++) ids.push(this.#wordIds[i]);
      }
    }
  }

  /** The word's number in the cache, into which it goes if it was not there. */
  #cachedWord(units: Uint16Array, start: number, end: number): number {
    if (this.#words.size === CACHED_WORDS || this.#wordStarts[this.#words.size] > CACHED_IDS) this.#words.clear();
    const known = this.#words.size;
    const word = this.#words.intern(units, start, end);
    if (word < known) return word;
    const count = this.#encodeWord(units, start, end);
    const used = this.#wordStarts[word];
    if (used + count > this.#wordIds.length) this.#wordIds = grown(this.#wordIds, used + count);
    for (let i = 0; i < count; i++) this.#wordIds[used + i] = this.#symbols[i];
    this.#wordStarts[word + 1] = used + count;
    return word;
  }

  /** Writes the word's ids to #symbols; returns their number. */
  #encodeWord(units: Uint16Array, start: number, end: number): number {
    if (3 * (end - start) > this.#symbols.length) this.#symbols = new Int32Array(3 * (end - start));
    return this.#model.merges.apply(this.#symbols, byteSymbols(units, start, end, this.#model.byteIds, this.#symbols));
  }
}
