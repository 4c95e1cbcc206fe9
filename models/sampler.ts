import {
  Arena,
  type Key,
  logSumExp,
  type NoiseSite,
  noGrad,
  noiseKey,
  sampleGumbel,
  seedKey,
  tensor,
} from "../lib/index.js";
import { pack } from "./batch.js";
import type { CachedSequence, KvCache } from "./kvCache.js";
import type { Qwen } from "./qwen.js";

export interface SampleRequest {
  /** The sequence's place in the cache; what is not there yet is computed first. */
  readonly sequence: CachedSequence;
  /** All tokens of the sequence so far. */
  readonly tokens: readonly number[];
  readonly stopIds: ReadonlySet<number>;
  /** Most tokens to draw; at least 1. */
  readonly maxTokens: number;
  /** 0 takes the most likely token. */
  readonly temperature: number;
  /** Ends the request early, with what was drawn so far. */
  readonly signal?: AbortSignal;
  /** Called with each token as it is drawn. */
  readonly onToken?: (id: number, logprob: number) => void;
  /** Names the noise of this turn: the same site gives the same noise in every batch and on every backend. */
  readonly site: Omit<NoiseSite, "position">;
}

export interface Completion {
  /** Drawn tokens, the stop token included. */
  readonly ids: readonly number[];
  /** Natural-log probability of each, at the sampling temperature (at 1 for greedy decoding). */
  readonly logprobs: readonly number[];
  readonly stop: "stop" | "length" | "cancelled";
}

interface Task {
  readonly request: SampleRequest;
  /** Tokens known and not in the cache yet. */
  pending: number[];
  /** Pages set aside for what is still to come. */
  reserved: number;
  readonly ids: number[];
  readonly logprobs: number[];
  resolve(completion: Completion): void;
  reject(error: unknown): void;
}

/**
 * Draws tokens for many sequences at once, with continuous batching: requests join and leave at every step, so a
 * conversation that waits for its user takes no place in the batch.
 */
export class Sampler {
  readonly #key: Key;
  readonly #active = new Set<Task>();
  readonly #waiting: Task[] = [];
  #running = false;
  /** Tokens drawn so far. */
  drawn = 0;

  constructor(
    readonly model: Qwen,
    readonly cache: KvCache,
    readonly options: {
      readonly seed: number;
      /** Most tokens in one forward pass: longer prompts are computed in chunks. */
      readonly maxBatchTokens?: number;
    },
  ) {
    this.#key = seedKey(options.seed);
  }

  /**
   * Continues a sequence until a stop token or `maxTokens`.
   * @throws where the sequence could get longer than the model or the cache allows, or is being continued already.
   */
  generate(request: SampleRequest): Promise<Completion> {
    const { sequence, tokens, maxTokens } = request;
    if (tokens.length === 0 || maxTokens < 1) {
      throw new Error(`generate: ${tokens.length} tokens and maxTokens ${maxTokens}; it needs at least one of each`);
    }
    if (tokens.length <= sequence.length) {
      throw new Error(
        `generate: all ${tokens.length} tokens are in the cache already; evict the sequence or give more`,
      );
    }
    const limit = this.model.config.maxPositions;
    if (tokens.length + maxTokens > limit) {
      throw new Error(`generate: ${tokens.length} tokens and ${maxTokens} more exceed the model's ${limit} positions`);
    }
    const { pages, pageSize } = this.cache.options;
    if (Math.ceil((tokens.length + maxTokens - 1) / pageSize) > pages) {
      throw new Error(
        `generate: ${tokens.length} tokens and ${maxTokens} more do not fit the cache of ${pages} pages of ${pageSize}`,
      );
    }
    if ([...this.#active, ...this.#waiting].some((task) => task.request.sequence === sequence)) {
      throw new Error("generate: this sequence is being continued already; await that first, or open another");
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ request, pending: [], reserved: 0, ids: [], logprobs: [], resolve, reject });
      void this.#run();
    });
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    // Requests that are made in the same turn of the event loop start together.
    await nextTurn();
    try {
      while (this.#active.size + this.#waiting.length > 0) {
        this.#dropCancelled();
        this.#admit();
        if (this.#active.size > 0) await this.#step();
        await nextTurn();
      }
    } catch (error) {
      for (const task of [...this.#active, ...this.#waiting.splice(0)]) task.reject(error);
      this.#active.clear();
    } finally {
      this.#running = false;
    }
  }

  #dropCancelled(): void {
    const cancelled = [...this.#active, ...this.#waiting].filter(({ request }) => request.signal?.aborted);
    for (const task of cancelled) {
      this.#active.delete(task);
      const at = this.#waiting.indexOf(task);
      if (at >= 0) this.#waiting.splice(at, 1);
      task.resolve({ ids: task.ids, logprobs: task.logprobs, stop: "cancelled" });
    }
  }

  /** Starts waiting requests, first come first served, while the cache has room for all they may still need. */
  #admit(): void {
    let promised = 0;
    for (const { request, reserved } of this.#active) promised += reserved - request.sequence.pages.length;
    while (this.#waiting.length > 0) {
      const [task] = this.#waiting;
      const { sequence, tokens, maxTokens } = task.request;
      const needed = this.cache.pagesNeeded(sequence, tokens.length - sequence.length + maxTokens - 1);
      if (!this.#makeRoom(promised + needed, sequence)) break;
      promised += needed;
      this.#waiting.shift();
      task.pending = tokens.slice(sequence.length);
      task.reserved = needed + sequence.pages.length;
      this.#active.add(task);
    }
  }

  /** Evicts idle sequences, which are computed again when they go on, until `pages` are free. */
  #makeRoom(pages: number, sequence: CachedSequence): boolean {
    if (this.cache.freePages >= pages) return true;
    const busy = new Set([...this.#active].map((task) => task.request.sequence));
    for (const idle of this.cache.sequences) {
      if (this.cache.freePages >= pages) break;
      if (idle !== sequence && !busy.has(idle)) this.cache.evict(idle);
    }
    return this.cache.freePages >= pages;
  }

  /** One forward pass: a token of every sequence that decodes, and as much of the prompts as the budget allows. */
  async #step(): Promise<void> {
    const { model, cache } = this;
    let budget = this.options.maxBatchTokens ?? 8192;
    const work: { task: Task; ids: number[] }[] = [];
    for (const task of [...this.#active].sort((a, b) => a.pending.length - b.pending.length)) {
      const ids = task.pending.slice(0, budget);
      if (ids.length === 0) break;
      budget -= ids.length;
      work.push({ task, ids });
    }
    using arena = new Arena();
    const drawing: { task: Task; row: number }[] = [];
    const logits = arena.run(() =>
      noGrad(() => {
        const sequences = work.map(({ task }) => task.request.sequence);
        const starts = sequences.map((sequence) => sequence.length);
        const batch = pack(
          work.map(({ ids }) => ids),
          model.backend,
          starts,
        );
        const hidden = model.forwardCached(
          batch,
          cache.extend(
            sequences,
            work.map(({ ids }) => ids.length),
          ),
        );
        work.forEach(({ task, ids }, s) => {
          task.pending = task.pending.slice(ids.length);
          if (task.pending.length === 0) drawing.push({ task, row: batch.offsets[s + 1] - 1 });
        });
        if (drawing.length === 0) return undefined;
        const rows = Int32Array.from(drawing, ({ row }) => row);
        return model.logits(hidden.gatherRows(tensor(rows, { backend: model.backend, dtype: "i32" })));
      }),
    );
    if (!logits) return;
    const values = (await logits.data()) as Float32Array;
    drawing.forEach(({ task }, i) => {
      this.#draw(task, values, i * model.config.vocabSize);
    });
  }

  #draw(task: Task, logits: Float32Array, from: number): void {
    const { request, ids, logprobs } = task;
    const { vocabSize } = this.model.config;
    const noise = noiseKey(this.#key, { ...request.site, position: request.sequence.length });
    const id = sampleGumbel(logits, from, vocabSize, request.temperature, noise);
    const temperature = request.temperature || 1;
    ids.push(id);
    logprobs.push(logits[from + id] / temperature - logSumExp(logits, from, vocabSize, temperature));
    this.drawn++;
    request.onToken?.(id, logprobs.at(-1)!);
    const stopped = request.stopIds.has(id);
    if (stopped || ids.length >= request.maxTokens) {
      this.#active.delete(task);
      task.resolve({ ids, logprobs, stop: stopped ? "stop" : "length" });
    } else {
      task.pending = [id];
    }
  }
}

/** Lets timers and input have their turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
