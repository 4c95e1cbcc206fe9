import {
  type Backend,
  type DType,
  keep,
  outsideArenas,
  type PagedContext,
  type PagedSlots,
  type Tensor,
  tensor,
  zeros,
} from "../lib/index.js";
import type { QwenConfig } from "./config.js";

/** A sequence whose keys and values are cached. */
export interface CachedSequence {
  /** Pages in order. */
  readonly pages: number[];
  /** Tokens in the cache. */
  length: number;
}

/** What one forward pass over the newest tokens needs of the cache. */
export interface CacheStep<Context = PagedContext | PagedSlots> {
  /** Per layer [rows, 2·kvHeads·headDim] = [k | v]. */
  readonly layers: readonly Tensor[];
  /** i32 [tokens]: the cache row that each new token's key and value go to. */
  readonly rows: Tensor;
  readonly context: Context;
}

/** Keys and values of many sequences, in pages of `pageSize` tokens taken from one pool. */
export class KvCache {
  readonly #layers: Tensor[];
  readonly #free: number[];
  readonly #open = new Set<CachedSequence>();

  constructor(
    config: QwenConfig,
    readonly options: {
      readonly backend: Backend;
      /** Size of the pool. */
      readonly pages: number;
      /** Tokens a page holds. */
      readonly pageSize: number;
      readonly dtype?: DType;
    },
  ) {
    const { backend, pages, pageSize, dtype = "f32" } = options;
    const shape = [pages * pageSize, 2 * config.kvHeads * config.headDim];
    this.#layers = outsideArenas(() =>
      Array.from({ length: config.layers }, () => keep(zeros(shape, { backend, dtype }))),
    );
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
  }

  /** Per layer [rows, 2·kvHeads·headDim] = [k | v]. */
  get layers(): readonly Tensor[] {
    return this.#layers;
  }

  /** Pages nobody holds. */
  get freePages(): number {
    return this.#free.length;
  }

  /** Sequences that are open, the oldest first. */
  get sequences(): Iterable<CachedSequence> {
    return this.#open;
  }

  /** An empty sequence; `close` gives its pages back. */
  open(): CachedSequence {
    const sequence = { pages: [], length: 0 };
    this.#open.add(sequence);
    return sequence;
  }

  close(sequence: CachedSequence): void {
    this.evict(sequence);
    this.#open.delete(sequence);
  }

  /** Takes a sequence's pages back; it stays open and starts from nothing. */
  evict(sequence: CachedSequence): void {
    this.#free.push(...sequence.pages.splice(0).reverse());
    sequence.length = 0;
  }

  /** Pages that `tokens` more tokens of a sequence would take from the pool. */
  pagesNeeded(sequence: CachedSequence, tokens: number): number {
    return Math.max(0, Math.ceil((sequence.length + tokens) / this.options.pageSize) - sequence.pages.length);
  }

  /**
   * Makes room for `counts[i]` new tokens of `sequences[i]` and says where they go. The forward pass that follows must
   * write them.
   * @throws when the pool has too few pages; nothing is changed then.
   */
  extend(sequences: readonly CachedSequence[], counts: readonly number[]): CacheStep<PagedContext> {
    const { backend, pageSize } = this.options;
    const offsets = new Int32Array(sequences.length + 1);
    counts.forEach((count, s) => {
      offsets[s + 1] = offsets[s] + count;
    });
    const needed = sequences.map((sequence, s) => this.pagesNeeded(sequence, counts[s]));
    this.#requirePages(needed.reduce((a, b) => a + b, 0));
    const rows = new Int32Array(offsets[sequences.length]);
    sequences.forEach((sequence, s) => {
      for (let i = 0; i < needed[s]; i++) sequence.pages.push(this.#free.pop()!);
      for (let i = 0; i < counts[s]; i++, sequence.length++) {
        const page = sequence.pages[Math.floor(sequence.length / pageSize)];
        rows[offsets[s] + i] = page * pageSize + (sequence.length % pageSize);
      }
    });
    const lengths = Int32Array.from(sequences, (sequence) => sequence.length);
    const context = { offsets, lengths, pages: sequences.map((sequence) => sequence.pages), pageSize };
    return { layers: this.#layers, rows: tensor(rows, { backend, dtype: "i32" }), context };
  }

  #requirePages(needed: number): void {
    if (needed > this.#free.length) {
      throw new Error(
        `KvCache: ${needed} pages wanted and ${this.#free.length} of ${this.options.pages} free; close sequences or enlarge it`,
      );
    }
  }

  /** Frees the pool. */
  dispose(): void {
    for (const layer of this.#layers) layer.dispose();
  }
}
