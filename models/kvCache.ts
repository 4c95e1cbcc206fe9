import {
  arena,
  type Backend,
  type DType,
  keep,
  noGrad,
  outsideArenas,
  type PagedContext,
  type PagedSlots,
  type ParameterSet,
  setRows,
  type Tensor,
  tensor,
  zeros,
} from "../lib/index.js";
import type { QwenConfig } from "./config.js";

/** A sequence whose keys and values are cached. */
export interface CachedSequence {
  /** Pages in order; the full ones may be other sequences' too. */
  readonly pages: number[];
  /** Tokens in the cache. */
  length: number;
  /** The last, partly filled page is another sequence's: it is copied before this one writes to it. */
  borrowsTail: boolean;
  /** Most tokens that whoever continues it may need: room is kept for them. 0 while it is idle and can be evicted. */
  target: number;
}

/** What one forward pass over the newest tokens needs of the cache. */
export interface CacheStep<Context = PagedContext | PagedSlots> {
  /** Per layer [rows, 2·kvHeads·headDim] = [k | v]. */
  readonly layers: readonly Tensor[];
  /** i32 [tokens]: the cache row that each new token's key and value go to. */
  readonly rows: Tensor;
  readonly context: Context;
}

/**
 * Keys and values of many sequences, in pages of `pageSize` tokens taken from one pool. A page goes back to the pool when
 * no sequence holds it any more. The pool's memory is allocated at first use.
 */
export class KvCache {
  #layers: readonly Tensor[] | undefined;
  #disposed = false;
  readonly #free: number[];
  /** Per page: how many sequences hold it. */
  readonly #holders: Uint32Array;
  /** The least recently used first. */
  readonly #open = new Set<CachedSequence>();
  #weights: { readonly of: ParameterSet; readonly version: number } | undefined;
  readonly #dependents: (() => void)[] = [];

  constructor(
    readonly config: QwenConfig,
    readonly options: {
      readonly backend: Backend;
      /** Size of the pool. */
      readonly pages: number;
      /** Tokens a page holds. */
      readonly pageSize: number;
      readonly dtype?: DType;
    },
  ) {
    const { pages } = options;
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
    this.#holders = new Uint32Array(pages);
  }

  /** Per layer [rows, 2·kvHeads·headDim] = [k | v]; others after `release`. */
  get layers(): readonly Tensor[] {
    return this.#allocated();
  }

  /** Pages nobody holds. */
  get freePages(): number {
    return this.#free.length;
  }

  /** Sequences that are open, the least recently extended first. */
  get sequences(): Iterable<CachedSequence> {
    return this.#open;
  }

  isOpen(sequence: CachedSequence): boolean {
    return this.#open.has(sequence);
  }

  /** An empty sequence; `close` gives its pages back. */
  open(): CachedSequence {
    const sequence = { pages: [], length: 0, borrowsTail: false, target: 0 };
    this.#open.add(sequence);
    return sequence;
  }

  /**
   * A new sequence that starts with the first `length` tokens (default: all) of an open one and shares their pages. Which
   * of the two goes on first does not matter: a partly filled page is copied when the new one writes to it.
   */
  fork(source: CachedSequence, length = source.length): CachedSequence {
    this.#requireOpen("fork", source);
    if (!(Number.isInteger(length) && length >= 0 && length <= source.length)) {
      throw new Error(`KvCache: fork of ${length} tokens, where ${source.length} are cached`);
    }
    const { pageSize } = this.options;
    const pages = source.pages.slice(0, Math.ceil(length / pageSize));
    // Its only holder owns a page from now on, even if it borrowed it once.
    if (this.#sharedTail(source) === undefined) source.borrowsTail = false;
    for (const page of pages) this.#holders[page]++;
    const fork = { pages, length, borrowsTail: length % pageSize !== 0, target: 0 };
    this.#open.add(fork);
    return fork;
  }

  /** @throws where the sequence is being continued. */
  close(sequence: CachedSequence): void {
    this.evict(sequence);
    this.#open.delete(sequence);
  }

  /**
   * Takes a sequence's pages back; it stays open and starts from nothing.
   * @throws where it is being continued.
   */
  evict(sequence: CachedSequence): void {
    if (sequence.target > 0)
      throw new Error("KvCache: this sequence is being continued; await that, or cancel it, first");
    sequence.length = 0;
    sequence.borrowsTail = false;
    this.trim(sequence);
  }

  /**
   * Empties the cache; sequences stay open and are computed again when they go on.
   * @throws where one is being continued; nothing is changed then.
   */
  reset(): void {
    if ([...this.#open].some(({ target }) => target > 0)) {
      throw new Error("KvCache: sequences are being continued; await them, or cancel them, before emptying the cache");
    }
    this.#drop();
    this.#weights = undefined;
  }

  /** `reset`, and gives the pool's memory back until it is next used. */
  release(): void {
    this.reset();
    for (const layer of this.#layers ?? []) layer.dispose();
    this.#layers = undefined;
  }

  /**
   * Says which weights the next keys and values come from. Where the cache holds those of others, it is emptied.
   * @throws where a sequence is being continued with other weights.
   */
  useWeights(of: ParameterSet): void {
    // Versions only rise, so their sum tells every change.
    let version = 0;
    for (const { storage } of of.values()) version += storage.version;
    if (this.#weights?.of === of && this.#weights.version === version) return;
    const held = [...this.#open].filter(({ pages }) => pages.length > 0);
    if (held.some(({ target }) => target > 0)) {
      throw new Error("KvCache: the weights changed while sequences were being continued; await these first");
    }
    this.#drop(held);
    this.#weights = { of, version };
  }

  /** Calls back once, when what the cache holds is dropped: by `reset`, `release`, `dispose`, or for other weights. */
  whenDropped(listener: () => void): void {
    this.#dependents.push(listener);
  }

  /** Pages that `tokens` more tokens of a sequence would take from the pool; only ever falls while others go on. */
  pagesNeeded(sequence: CachedSequence, tokens: number): number {
    if (tokens <= 0) return 0;
    const grown = Math.ceil((sequence.length + tokens) / this.options.pageSize) - sequence.pages.length;
    return Math.max(0, grown) + (this.#sharedTail(sequence) === undefined ? 0 : 1);
  }

  /** Pages that sequences which are being continued may still take. */
  get pagesPromised(): number {
    let promised = 0;
    for (const sequence of this.#open) promised += this.pagesNeeded(sequence, sequence.target - sequence.length);
    return promised;
  }

  /** Number of different pages that sequences hold. */
  pagesHeld(sequences: Iterable<CachedSequence>): number {
    const held = new Set<number>();
    for (const { pages } of sequences) for (const page of pages) held.add(page);
    return held.size;
  }

  /**
   * Makes room for `counts[i]` new tokens of `sequences[i]` and says where they go. The forward pass that follows must
   * write them.
   * @throws when the pool has too few pages; nothing is changed then.
   */
  extend(sequences: readonly CachedSequence[], counts: readonly number[]): CacheStep<PagedContext> {
    const { backend, pageSize } = this.options;
    for (const sequence of sequences) this.#requireOpen("extend", sequence);
    const needed = sequences.map((sequence, s) => this.pagesNeeded(sequence, counts[s]));
    this.#requirePages(needed.reduce((a, b) => a + b, 0));
    const layers = this.#allocated();
    this.#ownTails(sequences.filter((_, s) => counts[s] > 0));
    const offsets = new Int32Array(sequences.length + 1);
    counts.forEach((count, s) => {
      offsets[s + 1] = offsets[s] + count;
    });
    const rows = new Int32Array(offsets[sequences.length]);
    sequences.forEach((sequence, s) => {
      const { pages } = sequence;
      this.#grow(sequence, sequence.length + counts[s]);
      for (let i = 0; i < counts[s]; i++, sequence.length++) {
        rows[offsets[s] + i] = pages[Math.floor(sequence.length / pageSize)] * pageSize + (sequence.length % pageSize);
      }
      this.#touch(sequence);
    });
    const lengths = Int32Array.from(sequences, (sequence) => sequence.length);
    const context = { offsets, lengths, pages: sequences.map(({ pages }) => pages), pageSize };
    return { layers, rows: tensor(rows, { backend, dtype: "i32" }), context };
  }

  /**
   * Takes all pages that `sequences[i]` needs to hold `tokens[i]` tokens, for a device that writes there by itself. `advance`
   * says what it wrote, and `trim` gives the rest back.
   * @throws when the pool has too few pages; nothing is changed then.
   */
  reserve(sequences: readonly CachedSequence[], tokens: readonly number[]): void {
    for (const sequence of sequences) this.#requireOpen("reserve", sequence);
    const needed = sequences.map((sequence, s) => this.pagesNeeded(sequence, tokens[s] - sequence.length));
    this.#requirePages(needed.reduce((a, b) => a + b, 0));
    this.#allocated();
    this.#ownTails(sequences.filter(({ length }, s) => tokens[s] > length));
    for (const [s, sequence] of sequences.entries()) this.#grow(sequence, tokens[s]);
  }

  /**
   * Counts what was written to reserved pages: the sequence has `length` tokens from now on.
   * @throws where it has more, or no pages for so many.
   */
  advance(sequence: CachedSequence, length: number): void {
    const room = sequence.pages.length * this.options.pageSize;
    if (!(length >= sequence.length && length <= room)) {
      throw new Error(`KvCache: advance to ${length} tokens from ${sequence.length}, with pages for ${room}`);
    }
    sequence.length = length;
    this.#touch(sequence);
  }

  /** Gives back the pages that were reserved for a sequence and not filled. */
  trim({ pages, length }: CachedSequence): void {
    for (const page of pages.splice(Math.ceil(length / this.options.pageSize)).reverse()) {
      if (--this.#holders[page] === 0) this.#free.push(page);
    }
  }

  #drop(sequences: Iterable<CachedSequence> = this.#open): void {
    for (const sequence of sequences) this.evict(sequence);
    for (const listener of this.#dependents.splice(0)) listener();
  }

  #grow({ pages }: CachedSequence, tokens: number): void {
    while (pages.length * this.options.pageSize < tokens) pages.push(this.#take());
  }

  /** Makes it the most recently used. */
  #touch(sequence: CachedSequence): void {
    this.#open.delete(sequence);
    this.#open.add(sequence);
  }

  /** The page that has to be copied before the sequence writes to it. */
  #sharedTail({ pages, borrowsTail }: CachedSequence): number | undefined {
    const tail = pages.at(-1);
    return borrowsTail && this.#holders[tail!] > 1 ? tail : undefined;
  }

  /** Gives sequences that are about to write to a page of another one a copy of it. */
  #ownTails(sequences: readonly CachedSequence[]): void {
    const copies: { from: number; to: number }[] = [];
    for (const sequence of sequences) {
      const from = this.#sharedTail(sequence);
      sequence.borrowsTail = false;
      if (from === undefined) continue;
      const to = this.#take();
      this.#holders[from]--;
      sequence.pages[sequence.pages.length - 1] = to;
      copies.push({ from, to });
    }
    if (copies.length === 0) return;
    const { backend, pageSize } = this.options;
    const rowsOf = (pages: readonly number[]) =>
      tensor(
        Int32Array.from(
          { length: pages.length * pageSize },
          (_, i) => pages[Math.floor(i / pageSize)] * pageSize + (i % pageSize),
        ),
        { backend, dtype: "i32" },
      );
    noGrad(() =>
      arena(() => {
        const [from, to] = [rowsOf(copies.map((copy) => copy.from)), rowsOf(copies.map((copy) => copy.to))];
        for (const layer of this.#allocated()) setRows(layer, to, layer.gatherRows(from));
      }),
    );
  }

  #take(): number {
    const page = this.#free.pop()!;
    this.#holders[page] = 1;
    return page;
  }

  #allocated(): readonly Tensor[] {
    if (this.#disposed) throw new Error("KvCache: the cache was disposed of");
    if (this.#layers) return this.#layers;
    const { backend, pages, pageSize, dtype = "f32" } = this.options;
    const { layers, kvHeads, headDim } = this.config;
    const shape = [pages * pageSize, 2 * kvHeads * headDim];
    this.#layers = outsideArenas(() => Array.from({ length: layers }, () => keep(zeros(shape, { backend, dtype }))));
    return this.#layers;
  }

  #requireOpen(what: string, sequence: CachedSequence): void {
    if (!this.#open.has(sequence)) throw new Error(`KvCache: ${what}: this sequence was closed, or is another cache's`);
  }

  #requirePages(needed: number): void {
    if (needed > this.#free.length) {
      throw new Error(
        `KvCache: ${needed} pages wanted and ${this.#free.length} of ${this.options.pages} free; close sequences or enlarge it`,
      );
    }
  }

  /** Frees the pool for good. */
  dispose(): void {
    this.#drop([]);
    for (const layer of this.#layers ?? []) layer.dispose();
    this.#layers = undefined;
    this.#disposed = true;
  }
}
