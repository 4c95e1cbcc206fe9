import {
  Arena,
  checkSampling,
  InputError,
  type Key,
  largestLogits,
  logprobOf,
  lowestKept,
  noGrad,
  noiseKey,
  rowStatistics,
  sampleGumbel,
  seedKey,
  type Tensor,
  tensor,
} from "../lib/index.js";
import { pack } from "./batch.js";
import type { KvCache } from "./kvCache.js";
import type { Qwen } from "./qwen.js";
import { type Completion, type LikelyToken, type PrefillRequest, type SampleRequest, Task } from "./request.js";
import { admit, planStep, promptBudget, waitsForCompany } from "./schedule.js";
import { canUseSlots, TaskSlots } from "./taskSlots.js";

/**
 * Where tokens are drawn: on the device, whose steps are recorded and enqueued ahead of their results (cuda, bf16), or on the
 * host, which reads the logits of each.
 */
export type DrawsOn = "device" | "host";

export interface SamplerOptions {
  readonly seed: number;
  /** Most tokens in one forward pass: longer prompts are computed in chunks. Default 8192. */
  readonly maxBatchTokens?: number;
  /** Most sequences that are continued at once; the others wait. Default 1024. */
  readonly maxBatch?: number;
  /** Default: the device where it can (`canUseSlots`), else the host. */
  readonly drawsOn?: DrawsOn;
}

/**
 * Draws tokens for many sequences at once, with continuous batching: requests join and leave at every step, so a
 * conversation that waits for its user takes no place in the batch. Requests start in the order in which they were made.
 */
export class Sampler {
  readonly #key: Key;
  readonly #maxBatchTokens: number;
  readonly #maxBatch: number;
  readonly #active = new Set<Task>();
  readonly #waiting: Task[] = [];
  readonly #slots: TaskSlots | undefined;
  #running = false;
  #steps = 0;
  /** Steps in slots for which prompts have waited. */
  #waits = 0;
  /** Tokens drawn so far. */
  drawn = 0;

  constructor(
    readonly model: Qwen,
    readonly cache: KvCache,
    readonly options: SamplerOptions,
  ) {
    const { seed, maxBatchTokens = 8192, maxBatch = 1024 } = options;
    const canDraw = canUseSlots(model);
    const drawsOn = options.drawsOn ?? (canDraw ? "device" : "host");
    if (drawsOn === "device" && !canDraw) {
      throw new InputError(
        `tokens of a model in ${model.dtype} cannot be drawn on ${model.backend.name}; leave drawsOn out, or use cuda and bf16`,
      );
    }
    if (!(maxBatchTokens >= 1 && maxBatch >= 1)) {
      throw new Error(`Sampler: maxBatchTokens ${maxBatchTokens} and maxBatch ${maxBatch} must be at least 1`);
    }
    this.#key = seedKey(seed);
    this.#maxBatchTokens = Math.floor(maxBatchTokens);
    this.#maxBatch = maxBatch;
    if (drawsOn === "device") this.#slots = new TaskSlots(model, cache, { key: this.#key, most: maxBatch });
  }

  /**
   * Continues a sequence until a stop token or `maxTokens`.
   * @throws InputError where temperature, topK, topP or minP is out of its range.
   * @throws where the sequence could get longer than the model or the cache allows, or is being continued already.
   */
  generate(request: SampleRequest): Promise<Completion> {
    const { tokens, maxTokens } = request;
    if (tokens.length === 0 || !(maxTokens >= 1)) {
      throw new Error(`generate: ${tokens.length} tokens and maxTokens ${maxTokens}; it needs at least one of each`);
    }
    checkSampling(request);
    const { sample, turn } = request.site;
    if (!(sample < 2 ** 16 && turn < 2 ** 16)) {
      throw new Error(`generate: sample ${sample}, turn ${turn}; both must be < 65536`);
    }
    this.#check("generate", request, maxTokens);
    return this.#enqueue(request, request);
  }

  /**
   * Brings tokens into the cache and draws none, so that sequences can be forked that start with them.
   * @throws as `generate` does.
   */
  async prefill(request: PrefillRequest): Promise<void> {
    this.#check("prefill", request, 1);
    await this.#enqueue(request, undefined);
  }

  #check(what: string, { sequence, tokens }: PrefillRequest, maxTokens: number): void {
    if (tokens.length <= sequence.length) {
      throw new Error(`${what}: all ${tokens.length} tokens are in the cache already; evict the sequence or give more`);
    }
    const limit = this.model.config.maxPositions;
    if (tokens.length + maxTokens > limit) {
      throw new Error(`${what}: ${tokens.length} tokens and ${maxTokens} more exceed the model's ${limit} positions`);
    }
    const { pages, pageSize } = this.cache.options;
    if (Math.ceil((tokens.length + maxTokens - 1) / pageSize) > pages) {
      throw new Error(
        `${what}: ${tokens.length} tokens and ${maxTokens} more do not fit the cache of ${pages} pages of ${pageSize}`,
      );
    }
    if (!this.cache.isOpen(sequence)) throw new Error(`${what}: this sequence was closed, or is another cache's`);
    if (sequence.target > 0 || this.#waiting.some((task) => task.request.sequence === sequence)) {
      throw new Error(`${what}: this sequence is being continued already; await that first, or open another`);
    }
  }

  #enqueue(request: PrefillRequest, drawing: SampleRequest | undefined): Promise<Completion> {
    return new Promise((resolve, reject) => {
      // The most likely tokens are found where the logits are read.
      const usesSlot = this.#slots !== undefined && drawing !== undefined && !drawing.topLogprobs;
      this.#waiting.push(new Task(request, drawing, resolve, reject, usesSlot));
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
        this.#endInterrupted();
        this.cache.useWeights(this.model.parameters);
        this.#admit();
        if (this.#active.size > 0) await this.#step();
        if (this.#slots) await this.#stepSlots(this.#slots);
        await nextTurn();
      }
    } catch (error) {
      this.#slots?.abandon();
      for (const task of [...this.#active]) {
        this.#leave(task);
        // A pass that failed half-way may not have written what the cache counts.
        this.cache.evict(task.request.sequence);
        task.reject(error);
      }
      for (const task of this.#waiting.splice(0)) task.reject(error);
    } finally {
      this.#running = false;
    }
  }

  #endInterrupted(): void {
    for (const task of [...this.#active, ...this.#waiting]) {
      const stop = task.interrupted;
      if (stop) this.#settle(task, stop);
    }
  }

  #settle(task: Task, stop: Completion["stop"]): void {
    this.#leave(task);
    task.resolve(task.completion(stop));
  }

  #fail(task: Task, error: unknown): void {
    this.#leave(task);
    task.reject(error);
  }

  #leave(task: Task): void {
    const at = this.#waiting.indexOf(task);
    if (at >= 0) this.#waiting.splice(at, 1);
    this.#slots?.leave(task);
    if (this.#active.delete(task)) task.request.sequence.target = 0;
  }

  /** Starts waiting requests, first come first served, while the cache has room for all they may still need. */
  #admit(): void {
    let promised = this.cache.pagesPromised;
    while (this.#waiting.length > 0 && this.#active.size < this.#maxBatch) {
      const [task] = this.#waiting;
      const { sequence } = task.request;
      if (!this.cache.isOpen(sequence)) {
        this.#fail(task, new Error("generate: the sequence was closed while the request waited"));
        continue;
      }
      if (!admit(this.cache, sequence, task.target, promised)) break;
      promised += this.cache.pagesNeeded(sequence, task.target - sequence.length);
      this.#waiting.shift();
      this.#active.add(task);
    }
  }

  /**
   * One forward pass: a token of every sequence that decodes without a slot, and as much of the prompts as the budget
   * allows.
   */
  async #step(): Promise<void> {
    const decoding = this.#slots?.size ?? 0;
    const budget = promptBudget(this.#maxBatchTokens, decoding);
    const work = planStep(this.#active, budget);
    if (work.length === 0) return;
    const tokens = work.reduce((sum, { count }) => sum + count, 0);
    const draws = work.some(({ task }) => task.drawing && !task.usesSlot);
    if (!draws && waitsForCompany(tokens, budget, this.#slots?.drawing ?? 0, this.#waits)) {
      this.#waits++;
      return;
    }
    this.#waits = 0;
    this.#steps++;
    for (const { task } of work) task.served = this.#steps;
    using arena = new Arena();
    const logits = arena.run(() => noGrad(() => this.#forward(work)));
    const drawing: Task[] = [];
    for (const { task } of work) {
      if (task.pending > 0 || task.usesSlot) continue;
      if (task.drawing) drawing.push(task);
      else this.#settle(task, "length");
    }
    if (!logits) return;
    const values = (await logits.data()) as Float32Array | Float64Array;
    drawing.forEach((task, i) => {
      this.#draw(task, task.drawing!, values, i * this.model.config.vocabSize);
    });
  }

  /** Gives slots to those whose prompts are computed, keeps steps of all slots enqueued, and takes what the oldest drew. */
  async #stepSlots(slots: TaskSlots): Promise<void> {
    slots.enter([...this.#active].filter((task) => task.usesSlot && task.pending === 0 && !slots.has(task)));
    slots.enqueue();
    for (const { task, id, logprob } of await slots.next()) {
      if (id >= 0) this.#take(task, task.drawing!, { id, logprob });
      else {
        this.#fail(task, new Error("generate: no logit of the next token is a number; look at the model's weights"));
        this.cache.evict(task.request.sequence);
      }
    }
  }

  /** Logits after the last token of each sequence that gets one drawn, in the order of the work. */
  #forward(work: readonly { readonly task: Task; readonly count: number }[]): Tensor | undefined {
    const { model, cache } = this;
    const sequences = work.map(({ task }) => task.request.sequence);
    const starts = sequences.map(({ length }) => length);
    const ids = work.map(({ task, count }, s) => task.known.slice(starts[s], starts[s] + count));
    const batch = pack(ids, model.backend, starts);
    const step = cache.extend(
      sequences,
      work.map(({ count }) => count),
    );
    const hidden = model.forwardCached(batch, step);
    const draws = ({ drawing, usesSlot, pending }: Task) => drawing && !usesSlot && pending === 0;
    const rows = work.flatMap(({ task }, s) => (draws(task) ? [batch.offsets[s + 1] - 1] : []));
    if (rows.length === 0) {
      if (this.#slots?.size === 0) this.#slots.follow(hidden.slice(0, 0, 1).data());
      return undefined;
    }
    return model.logits(hidden.gatherRows(tensor(Int32Array.from(rows), { backend: model.backend, dtype: "i32" })));
  }

  #draw(task: Task, request: SampleRequest, logits: Float32Array | Float64Array, from: number): void {
    const { vocabSize } = this.model.config;
    const noise = noiseKey(this.#key, { ...request.site, position: task.known.length });
    const lowest = lowestKept(logits, from, vocabSize, request);
    const id = sampleGumbel(logits, from, vocabSize, request.temperature, noise, lowest);
    const scale = 1 / (request.temperature || 1);
    const statistics = rowStatistics(logits, from, vocabSize, scale);
    const logprobAt = (token: number) => {
      const exact = logprobOf(logits[from + token], statistics, scale);
      return logits instanceof Float64Array ? exact : Math.fround(exact);
    };
    const likely = largestLogits(logits, from, vocabSize, request.topLogprobs ?? 0);
    this.#take(
      task,
      request,
      { id, logprob: logprobAt(id) },
      likely.map((token) => ({ id: token, logprob: logprobAt(token) })),
    );
  }

  /** A token was drawn. */
  #take(task: Task, request: SampleRequest, { id, logprob }: LikelyToken, likely: readonly LikelyToken[] = []): void {
    task.known.push(id);
    task.logprobs.push(logprob);
    this.drawn++;
    try {
      request.onToken?.(id, logprob, likely);
    } catch (error) {
      this.#fail(task, error);
      return;
    }
    if (request.stopIds.has(id)) this.#settle(task, "stop");
    else if (task.logprobs.length >= request.maxTokens) this.#settle(task, "length");
  }
}

/** Lets timers and input have their turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
