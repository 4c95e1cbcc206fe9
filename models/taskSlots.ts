import type { Key } from "../lib/index.js";
import type { KvCache } from "./kvCache.js";
import type { Qwen } from "./qwen.js";
import type { SampleRequest, Task } from "./request.js";
import { MOST_STOPS, powerOfTwo, SlotDecoder, type StepResult } from "./slotDecoder.js";

/** Steps that are enqueued beyond the one whose result is awaited. */
const AHEAD = 2;
const MOST_SLOTS = 1024;

/** Whether sequences of a model can decode with their state on the device: on cuda, in bf16. */
export function canUseSlots({ backend: { fused }, dtype, config }: Qwen): boolean {
  const { record, planSlots, slotAttention, advanceSlots, sampleLogits, takesSlots } = fused;
  const kernels = [record, planSlots, slotAttention, advanceSlots, sampleLogits];
  return kernels.every((kernel) => kernel !== undefined) && takesSlots?.(dtype, config) === true;
}

/** A task's place on the device. */
interface Seat {
  readonly task: Task;
  slot: number;
  /** Ids that end it there; the host looks for the others. */
  readonly stops: ReadonlySet<number>;
  /** Tokens that it may draw in steps to come. */
  left: number;
}

/** Enqueued work and those who draw a token in it. */
interface Flight {
  readonly seats: readonly { readonly task: Task; readonly slot: number }[];
  readonly result: Promise<StepResult | undefined>;
}

/** A token that a task drew. */
export interface DrawnToken {
  readonly task: Task;
  /** −1 where no logit was a number. */
  readonly id: number;
  readonly logprob: number;
}

/**
 * Tasks that decode in the slots of a device. Steps are enqueued ahead of their results, which come in order; what a step
 * draws for a task that has left is dropped. The decoder, which records where the cache and the weights lie, goes when the
 * cache drops what it holds, and is made anew when next needed.
 */
export class TaskSlots {
  readonly #seats = new Map<Task, Seat>();
  readonly #taken: boolean[];
  readonly #flights: Flight[] = [];
  #decoder: SlotDecoder | undefined;

  constructor(
    readonly model: Qwen,
    readonly cache: KvCache,
    readonly options: { readonly key: Key; readonly most: number },
  ) {
    this.#taken = new Array<boolean>(powerOfTwo(Math.min(options.most, MOST_SLOTS))).fill(false);
  }

  /** Tasks that have a slot. */
  get size(): number {
    return this.#seats.size;
  }

  /** Tasks that may draw in steps to come. */
  get drawing(): number {
    return [...this.#seats.values()].filter(({ left }) => left > 0).length;
  }

  has(task: Task): boolean {
    return this.#seats.has(task);
  }

  /** Gives slots, as far as there are, to tasks with all tokens but the last in the cache: they draw from the next step on. */
  enter(tasks: readonly Task[]): void {
    const entering = tasks.slice(0, this.#taken.length - this.#seats.size);
    if (entering.length === 0) return;
    this.cache.reserve(
      entering.map(({ request }) => request.sequence),
      entering.map(({ target }) => target),
    );
    for (const task of entering) this.#start(task, task.drawing!);
  }

  #start(task: Task, { sequence, temperature, topP = 1, minP = 0, topK = 0, ...request }: SampleRequest): void {
    const { site, maxTokens } = request;
    const position = task.known.length - 1;
    const stops = new Set([...request.stopIds].slice(0, MOST_STOPS));
    const slot = this.#take();
    this.#seats.set(task, { task, slot, stops, left: maxTokens });
    this.#open().start(slot, {
      ...{ token: task.known[position], position, pages: sequence.pages },
      ...{ temperature, topP, minP, topK: Math.min(topK, this.model.config.vocabSize) },
      ...{ stopIds: stops, site, maxTokens },
    });
  }

  /** Takes a task's slot back, and with it the pages that it did not fill. */
  leave(task: Task): void {
    const seat = this.#seats.get(task);
    if (!seat) return;
    this.#seats.delete(task);
    this.#taken[seat.slot] = false;
    const { known, logprobs, request, drawing } = task;
    const hasStopped = logprobs.length > 0 && seat.stops.has(known.at(-1)!);
    if (hasStopped || logprobs.length === drawing!.maxTokens) this.#decoder?.ended(seat.slot);
    else this.#decoder?.stop(seat.slot);
    this.cache.trim(request.sequence);
  }

  /** Enqueues steps until enough are ahead, as far as there is something to draw. */
  enqueue(): void {
    while (this.#flights.length <= AHEAD) {
      const drawing = [...this.#seats.values()].filter(({ left }) => left > 0);
      if (drawing.length === 0) return;
      if (!this.#decoder) throw new Error("Sampler: the cache was emptied while sequences were being continued");
      this.#closeRanks();
      const result = this.#decoder.step(1 + Math.max(...drawing.map(({ slot }) => slot)));
      this.#fly({ seats: drawing.map(({ task, slot }) => ({ task, slot })), result });
      for (const seat of drawing) seat.left--;
    }
  }

  /** Other work was enqueued, which `done` tells the end of: the host gets no further ahead of it than of steps. */
  follow(done: Promise<unknown>): void {
    this.#fly({ seats: [], result: done.then(() => undefined) });
  }

  /** The oldest result, where enough is enqueued beyond it or nothing can be. */
  async next(): Promise<DrawnToken[]> {
    if (this.#flights.length <= AHEAD && this.#seats.size === 0) return [];
    const flight = this.#flights.shift();
    const step = await flight?.result;
    if (!flight || !step) return [];
    const seats = flight.seats.filter(({ task }) => this.#seats.has(task));
    // A step writes the keys and values of the token before the one that it draws.
    for (const { task } of seats) this.cache.advance(task.request.sequence, task.known.length);
    return seats.map(({ task, slot }) => ({ task, id: step.ids[slot], logprob: step.logprobs[slot] }));
  }

  /** After an error: forgets all tasks and what is under way. */
  abandon(): void {
    this.#seats.clear();
    this.#taken.fill(false);
    this.#flights.length = 0;
    try {
      this.#close();
    } catch {
      // After a fault the device refuses this too; the first error is the one to report.
    }
  }

  #fly(flight: Flight): void {
    // Whoever awaits it hears of an error; here it must not count as unhandled meanwhile.
    flight.result.catch(() => {});
    this.#flights.push(flight);
  }

  /** The lowest free slot: a step costs as much as the power of two above the highest. */
  #take(): number {
    const slot = this.#taken.indexOf(false);
    this.#taken[slot] = true;
    return slot;
  }

  /** Moves tasks to lower slots where a smaller power of two has room for all. */
  #closeRanks(): void {
    const room = powerOfTwo(this.#seats.size);
    const moves = [...this.#seats.values()]
      .filter(({ slot }) => slot >= room)
      .map((seat) => ({ seat, from: seat.slot }));
    if (moves.length === 0) return;
    for (const { seat, from } of moves) {
      seat.slot = this.#take();
      this.#taken[from] = false;
    }
    this.#decoder!.move(moves.map(({ seat, from }) => ({ from, to: seat.slot })));
  }

  #open(): SlotDecoder {
    if (this.#decoder) return this.#decoder;
    const { model, cache } = this;
    const decoder = new SlotDecoder(model, cache, { slots: this.#taken.length, key: this.options.key });
    this.#decoder = decoder;
    cache.whenDropped(() => {
      if (this.#decoder === decoder) this.#close();
    });
    return decoder;
  }

  #close(): void {
    this.#decoder?.dispose();
    this.#decoder = undefined;
  }
}
