import { Heap } from "./heap.js";

/** Above this many symbols a heap finds the next merge, below it a scan. */
const LONG = 96;
const NONE = 0x7fffffff;
/** Symbols per word are below this, and ranks × this is exact in a double. */
const POSITIONS = 2 ** 31;

/**
 * The merges of byte-pair encoding: a hash table from a pair of token ids to the merge's rank and to the id that it makes.
 * Of the pairs in a word the one with the lowest rank is merged first, and of equal ones the leftmost, until none is left.
 */
export class Merges {
  readonly #table: Int32Array; // slots of [left, right, rank, merged]; left = −1 where free
  readonly #mask: number;
  readonly #ranks = new Int32Array(LONG); // rank of the pair that begins at a symbol

  /** `pairs` in order of rank; of a pair that occurs twice the last one counts. */
  constructor(pairs: readonly (readonly [left: number, right: number, merged: number])[]) {
    const slots = 2 ** Math.ceil(Math.log2(2 * pairs.length + 2));
    this.#mask = slots - 1;
    this.#table = new Int32Array(4 * slots).fill(-1);
    for (const [rank, [left, right, merged]] of pairs.entries()) {
      this.#table.set([left, right, rank, merged], this.#slot(left, right));
    }
  }

  /** Merges `count` symbols (token ids of single bytes) in place; returns how many are left. */
  apply(symbols: Int32Array, count: number): number {
    return count > LONG ? this.#applyLong(symbols, count) : this.#applyShort(symbols, count);
  }

  /** Offset in the table of the pair's slot, or of the free one where it belongs. */
  #slot(left: number, right: number): number {
    const table = this.#table;
    let slot = Math.imul(Math.imul(left, 0x9e3779b1) ^ right, 0x85ebca6b);
    slot ^= slot >>> 15;
    for (; ; slot++) {
      const offset = (slot & this.#mask) << 2;
      if (table[offset] === -1 || (table[offset] === left && table[offset + 1] === right)) return offset;
    }
  }

  #rank(left: number, right: number): number {
    const offset = this.#slot(left, right);
    return this.#table[offset] === -1 ? NONE : this.#table[offset + 2];
  }

  #merged(left: number, right: number): number {
    return this.#table[this.#slot(left, right) + 3];
  }

  #applyShort(symbols: Int32Array, count: number): number {
    const ranks = this.#ranks;
    for (let i = 0; i + 1 < count; i++) ranks[i] = this.#rank(symbols[i], symbols[i + 1]);
    for (;;) {
      let best = NONE;
      let at = -1;
      for (let i = 0; i + 1 < count; i++) {
        if (ranks[i] < best) {
          best = ranks[i];
          at = i;
        }
      }
      if (at < 0) return count;
      symbols[at] = this.#merged(symbols[at], symbols[at + 1]);
      count--;
      for (let i = at + 1; i < count; i++) {
        symbols[i] = symbols[i + 1];
        ranks[i] = ranks[i + 1];
      }
      if (at + 1 < count) ranks[at] = this.#rank(symbols[at], symbols[at + 1]);
      if (at > 0) ranks[at - 1] = this.#rank(symbols[at - 1], symbols[at]);
    }
  }

  /** The same with a heap: n log n, for words of any length. */
  #applyLong(symbols: Int32Array, count: number): number {
    const next = Int32Array.from({ length: count }, (_, i) => i + 1);
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const ranks = new Int32Array(count).fill(NONE);
    const heap = new Heap<number>((a, b) => a < b);
    const update = (i: number) => {
      ranks[i] = next[i] < count ? this.#rank(symbols[i], symbols[next[i]]) : NONE;
      if (ranks[i] !== NONE) heap.push(ranks[i] * POSITIONS + i);
    };
    for (let i = 0; i < count; i++) update(i);
    for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
      const i = key % POSITIONS;
      if (ranks[i] !== Math.floor(key / POSITIONS)) continue; // one of the two symbols has been merged since
      const right = next[i];
      symbols[i] = this.#merged(symbols[i], symbols[right]);
      ranks[right] = NONE;
      next[i] = next[right];
      if (next[i] < count) previous[next[i]] = i;
      update(i);
      if (previous[i] >= 0) update(previous[i]);
    }
    let left = 0;
    for (let i = 0; i < count; i = next[i]) symbols[left++] = symbols[i];
    return left;
  }
}
