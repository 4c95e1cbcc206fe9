import {
  Arena,
  advanceSlots,
  type Backend,
  type DType,
  type Key,
  noGrad,
  outsideArenas,
  planSlots,
  type Recording,
  readDrawn,
  sampleLogits,
  setRows,
  type Tensor,
  tensor,
  zeros,
} from "../lib/index.js";
import type { KvCache } from "./kvCache.js";
import type { Qwen } from "./qwen.js";

/** Keys whose attention is one piece of work. */
const CHUNK = 512;
/** Ids that may end a sequence on the device. */
export const MOST_STOPS = 8;

/** The smallest power of two that is at least `count`. */
export function powerOfTwo(count: number): number {
  let power = 1;
  while (power < count) power *= 2;
  return power;
}

/** How the tokens of one sequence are drawn. */
export interface SlotRequest {
  /** 0 takes the most likely token. */
  readonly temperature: number;
  /** 1 is off. */
  readonly topP: number;
  /** 0 is off. */
  readonly minP: number;
  /** 0 is off. */
  readonly topK: number;
  /** At most MOST_STOPS. */
  readonly stopIds: Iterable<number>;
  readonly site: { readonly step: number; readonly task: number; readonly sample: number; readonly turn: number };
  /** Most tokens to draw. */
  readonly maxTokens: number;
}

/** A sequence that begins to decode. */
export interface SlotStart extends SlotRequest {
  /** The token that is in the sequence but not in the cache yet. */
  readonly token: number;
  /** Its position. */
  readonly position: number;
  /** Pages for all tokens the sequence can get. */
  readonly pages: readonly number[];
}

/** What a step drew, by slot; id −1 in slots that were empty. */
export interface StepResult {
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
}

type State = Readonly<
  Record<
    | ("tokens" | "positions" | "rows" | "lengths" | "remaining" | "stops" | "table" | "topK" | "site")
    | ("temperature" | "topP" | "minP"),
    Tensor
  >
>;

/** What one slot holds. */
type Values = Partial<Record<keyof State, ArrayLike<number>>>;

/**
 * Decoding with all state on the device: a step reads the last step's tokens there, draws, and moves every slot on, so steps
 * can be enqueued ahead of their results. Steps are recorded once for each number of slots and each length of context.
 */
export class SlotDecoder {
  readonly #state: State;
  readonly #steps = new Map<string, { readonly recording: Recording; readonly arena: Arena; readonly drawn: Tensor }>();
  readonly #pages: number;
  /** Upper bounds of the lengths on the device, after the steps enqueued so far. */
  readonly #lengths: Int32Array;
  /** What slots are to hold from the next step on. */
  readonly #unwritten = new Map<number, Values>();

  constructor(
    readonly model: Qwen,
    readonly cache: KvCache,
    readonly options: {
      /** Sequences that decode at once at most: a power of two. */
      readonly slots: number;
      readonly key: Key;
    },
  ) {
    const { slots } = options;
    const { maxPositions } = model.config;
    this.#pages = Math.min(cache.options.pages, Math.ceil(maxPositions / cache.options.pageSize));
    this.#lengths = new Int32Array(slots);
    const make = (dtype: DType, ...columns: number[]) => zeros([slots, ...columns], { backend: model.backend, dtype });
    const none = () => tensor(new Int32Array(slots).fill(-1), { backend: model.backend, dtype: "i32" });
    this.#state = outsideArenas(() => ({
      ...{ tokens: none(), positions: make("i32"), rows: none(), lengths: make("i32") },
      ...{ remaining: make("i32"), stops: make("i32", MOST_STOPS), table: make("i32", this.#pages) },
      ...{ topK: make("i32"), site: make("i32", 3) },
      ...{ temperature: make("f32"), topP: make("f32"), minP: make("f32") },
    }));
  }

  /** Puts a sequence into a slot, behind the steps enqueued so far. */
  start(slot: number, start: SlotStart): void {
    const { pageSize } = this.cache.options;
    const stops = [...start.stopIds];
    if (stops.length > MOST_STOPS || start.pages.length > this.#pages) {
      throw new Error(
        `decode: ${stops.length} stop ids and ${start.pages.length} pages; at most ${MOST_STOPS} and ${this.#pages}`,
      );
    }
    const { position, site } = start;
    const [room, needed] = [start.pages.length * pageSize, position + start.maxTokens];
    if (!(start.maxTokens >= 1 && needed <= room)) {
      throw new Error(`decode: ${start.maxTokens} tokens from position ${position} on, and pages for ${room} in all`);
    }
    if (!(site.sample < 2 ** 16 && site.turn < 2 ** 16)) {
      throw new Error(`decode: sample ${site.sample}, turn ${site.turn} must be < 65536`);
    }
    const table = new Int32Array(this.#pages);
    table.set(start.pages);
    stops.push(...new Array<number>(MOST_STOPS - stops.length).fill(-1));
    this.#lengths[slot] = position + 1;
    this.#write(slot, {
      ...{ tokens: [start.token], positions: [position], lengths: [position + 1], remaining: [start.maxTokens] },
      rows: [start.pages[Math.floor(position / pageSize)] * pageSize + (position % pageSize)],
      ...{ stops, table, topK: [start.topK] },
      site: [site.step, site.task, site.sample * 2 ** 16 + site.turn],
      ...{ temperature: [start.temperature], topP: [start.topP], minP: [start.minP] },
    });
  }

  /** Empties a slot, behind the steps enqueued so far. */
  stop(slot: number): void {
    this.#lengths[slot] = 0;
    this.#write(slot, { tokens: [-1], positions: [0], rows: [-1], lengths: [0] });
  }

  /** Takes note that the sequence in a slot ended on the device, by a stop id or its most tokens. */
  ended(slot: number): void {
    this.#lengths[slot] = 0;
  }

  /** Moves sequences to other slots, behind the steps enqueued so far; their own are empty then. */
  move(moves: readonly { readonly from: number; readonly to: number }[]): void {
    this.#flush();
    const { backend } = this.model;
    using arena = new Arena();
    arena.run(() => {
      const [from, to] = (["from", "to"] as const).map((end) =>
        indexOf(
          backend,
          moves.map((move) => move[end]),
        ),
      );
      for (const all of Object.values(this.#state)) setRows(byRows(all), to, byRows(all).gatherRows(from));
    });
    for (const { from, to } of moves) this.#lengths[to] = this.#lengths[from];
    for (const { from } of moves) this.stop(from);
  }

  /** Enqueues a step of the first `slots` slots. The result comes when the device is done with it. */
  step(slots: number): Promise<StepResult> {
    const bucket = powerOfTwo(slots);
    let longest = 1;
    for (let slot = 0; slot < slots; slot++) {
      longest = Math.max(longest, this.#lengths[slot]);
      if (this.#lengths[slot] > 0) this.#lengths[slot]++;
    }
    const chunks = powerOfTwo(longest / CHUNK);
    const key = `${bucket} ${chunks}`;
    let step = this.#steps.get(key);
    if (!step) this.#steps.set(key, (step = this.#record(bucket, chunks)));
    this.#flush();
    step.recording.launch();
    return readDrawn(step.drawn);
  }

  dispose(): void {
    for (const { recording, arena } of this.#steps.values()) {
      recording.dispose();
      arena.dispose();
    }
    this.#steps.clear();
    for (const tensor of Object.values(this.#state)) tensor.dispose();
  }

  #write(slot: number, values: Values): void {
    this.#unwritten.set(slot, { ...this.#unwritten.get(slot), ...values });
  }

  /** Writes what is to be in the slots before the next step, every array once for all slots that get something there. */
  #flush(): void {
    const { backend } = this.model;
    using arena = new Arena();
    for (const name of Object.keys(this.#state) as (keyof State)[]) {
      const rows = [...this.#unwritten].flatMap(([slot, { [name]: values }]) => (values ? [{ slot, values }] : []));
      if (rows.length === 0) continue;
      arena.run(() => {
        const target = byRows(this.#state[name]);
        const [, columns] = target.shape;
        const content = new Float64Array(rows.length * columns);
        for (const [i, { values }] of rows.entries()) content.set(values, i * columns);
        const source = tensor(content, { backend, dtype: target.dtype, shape: [rows.length, columns] });
        const slots = rows.map(({ slot }) => slot);
        setRows(target, indexOf(backend, slots), source);
      });
    }
    this.#unwritten.clear();
  }

  /** Runs a step that leaves nothing behind: kernels are compiled and algorithms chosen before it is recorded. */
  #rehearse(bucket: number, work: Tensor, chunks: number): void {
    const { backend, config } = this.model;
    using arena = new Arena();
    arena.run(() => {
      const state = Object.fromEntries(
        Object.entries(this.#state).map(([name, { dtype, shape }]) => [
          name,
          zeros([bucket, ...shape.slice(1)], { backend, dtype }),
        ]),
      ) as State;
      const slots = (value: (i: number) => number) =>
        tensor(
          Int32Array.from({ length: bucket }, (_, i) => value(i)),
          { backend, dtype: "i32" },
        );
      const [tokens, lengths, rows] = [slots((i) => i % config.vocabSize), slots(() => 1), slots(() => -1)];
      this.#enqueue({ ...state, tokens, lengths, rows }, work, chunks);
    });
  }

  /** Records a step of the first `bucket` slots. */
  #record(bucket: number, chunks: number) {
    const record = this.model.backend.fused.record;
    if (!record) throw new Error(`decode: ${this.model.backend.name} cannot record steps`);
    const arena = new Arena();
    try {
      const state = Object.fromEntries(
        Object.entries(this.#state).map(([name, all]) => [name, arena.run(() => all.slice(0, 0, bucket))]),
      ) as State;
      const work = arena.run(() => zeros([bucket * (chunks + 1) * 8], { backend: this.model.backend, dtype: "i32" }));
      const times = [performance.now()];
      this.#rehearse(bucket, work, chunks);
      times.push(performance.now());
      let drawn: Tensor | undefined;
      const recording = record(() => {
        drawn = arena.run(() => this.#enqueue(state, work, chunks));
      });
      times.push(performance.now());
      tellTimes(bucket, chunks, times);
      return { recording, arena, drawn: drawn! };
    } catch (error) {
      arena.dispose();
      throw error;
    }
  }

  #enqueue(state: State, work: Tensor, chunks: number): Tensor {
    const { model, cache } = this;
    const { tokens, positions, rows, lengths, remaining, stops, table, site, temperature, topP, minP, topK } = state;
    return noGrad(() => {
      const context = { lengths, table, chunks, work, pageSize: cache.options.pageSize };
      planSlots(tokens, context, model.config);
      const batch = { ids: tokens, positions, offsets: new Int32Array(0) };
      const hidden = model.forwardCached(batch, { layers: cache.layers, rows, context });
      const draws = { temperature, topP, minP, topK, site, positions: lengths, key: this.options.key };
      const drawn = sampleLogits(model.logits(hidden), draws);
      advanceSlots(drawn, context, { tokens, positions, rows, remaining, stops });
      return drawn;
    });
  }
}

/** [slots] → [slots, 1], so that slots are rows. */
function byRows(all: Tensor): Tensor {
  return all.reshape([all.shape[0], -1]);
}

function indexOf(backend: Backend, slots: readonly number[]): Tensor {
  return tensor(slots, { backend, dtype: "i32" });
}

/** With `DEBUG=1` says how long the host took over a new recording. */
function tellTimes(slots: number, chunks: number, [start, rehearsed, recorded]: readonly number[]): void {
  if (!(Number(process.env.DEBUG) >= 1)) return;
  const ms = (from: number, to: number) => `${(to - from).toFixed(1)} ms`;
  process.stderr.write(
    `step of ${slots} slots, ${chunks} × ${CHUNK} tokens: rehearsed in ${ms(start, rehearsed)}, recorded in ${ms(rehearsed, recorded)}\n`,
  );
}
