import type { ArrayRef, FusedKernels, Storage } from "../../lib/backend/backend.js";
import {
  type Backend,
  type CpuOptions,
  createCpu,
  logprobOf,
  lowestKept,
  noiseKey,
  rowStatistics,
  sampleGumbel,
} from "../../lib/index.js";
import { sizeOf } from "../../lib/shape.js";

type Decoding = Pick<
  FusedKernels,
  "takesSlots" | "planSlots" | "slotAttention" | "advanceSlots" | "sampleLogits" | "record"
>;

/** Keys of a chunk. */
const CHUNK = 512;

const elements = <T extends Int32Array | Float32Array>({ storage, offset, shape }: ArrayRef): T =>
  (storage.handle as T).subarray(offset, offset + sizeOf(shape)) as T;
const ints = (x: ArrayRef) => elements<Int32Array>(x);
const floats = (x: ArrayRef) => elements<Float32Array>(x);

/**
 * A cpu with stand-ins for the kernels that decode with their state on the device, for f32: what they do is what the host
 * does when it draws. Results come `delay` turns of the event loop after they were asked for, as they were then, in order.
 */
export function createCpuWithSlots(options: CpuOptions & { delay?: () => number } = {}): Backend {
  const { delay = () => 0, ...rest } = options;
  const backend = createCpu(rest);
  const { download, setRows } = backend;
  /** While work is recorded, nothing that it works on may change. */
  let isRecording = false;
  let last: Promise<unknown> = Promise.resolve();

  const kernels: Decoding = {
    takesSlots: (dtype) => dtype === "f32",

    planSlots({ lengths, chunks, work }) {
      if (work.shape[0] !== lengths.shape[0] * (chunks + 1) * 8) throw new Error(`planSlots: work ${work.shape}`);
    },

    slotAttention(x, cache, { lengths, table, pageSize, chunks }, layout) {
      const [slots, pages] = table.shape;
      const known = ints(lengths);
      if (Math.max(...known) > chunks * CHUNK) throw new Error(`slotAttention: ${chunks} chunks for ${known}`);
      const context = {
        offsets: Int32Array.from({ length: slots + 1 }, (_, i) => i),
        lengths: known.map((length) => Math.max(1, length)),
        pages: Array.from({ length: slots }, (_, s) => [...ints(table).subarray(s * pages, (s + 1) * pages)]),
        pageSize,
      };
      const y = backend.fused.pagedAttention!(x, cache, context, layout);
      const width = layout.heads * layout.headDim;
      const out = floats({ storage: y, offset: 0, shape: [slots * width] });
      known.forEach((length, s) => {
        if (length === 0) out.fill(Number.NaN, s * width, (s + 1) * width);
      });
      return y;
    },

    sampleLogits(logits, draws) {
      const [rows, vocabulary] = logits.shape;
      const drawn = new Int32Array(2 * rows);
      const [ids, logprobs] = [drawn.subarray(0, rows).fill(-1), new Float32Array(drawn.buffer, 4 * rows)];
      const [values, site, positions, topK] = [
        floats(logits),
        ints(draws.site),
        ints(draws.positions),
        ints(draws.topK),
      ];
      const [temperature, topP, minP] = [draws.temperature, draws.topP, draws.minP].map(floats);
      for (let row = 0; row < rows; row++) {
        const from = row * vocabulary;
        if (positions[row] === 0 || values.subarray(from, from + vocabulary).some(Number.isNaN)) continue;
        const [step, task, place] = site.subarray(3 * row);
        const where = { step, task, sample: place >>> 16, turn: place & 0xffff, position: positions[row] };
        const sampling = { temperature: temperature[row], topP: topP[row], minP: minP[row], topK: topK[row] };
        const lowest = lowestKept(values, from, vocabulary, sampling);
        const key = noiseKey(draws.key, where);
        ids[row] = sampleGumbel(values, from, vocabulary, sampling.temperature, key, lowest);
        const scale = 1 / (sampling.temperature || 1);
        logprobs[row] = logprobOf(values[from + ids[row]], rowStatistics(values, from, vocabulary, scale), scale);
      }
      return backend.upload("i32", drawn);
    },

    advanceSlots(drawn, { lengths, table, pageSize }, { tokens, positions, rows, remaining, stops }) {
      if (isRecording) return;
      const [slots, pages] = table.shape;
      for (let s = 0; s < slots; s++) {
        const position = ints(lengths)[s];
        if (position === 0) continue;
        const token = ints(drawn)[s];
        const left = --ints(remaining)[s];
        const stopIds = ints(stops).subarray(8 * s, 8 * (s + 1));
        const ends = left <= 0 || token < 0 || stopIds.includes(token);
        const row = () => ints(table)[s * pages + Math.floor(position / pageSize)] * pageSize + (position % pageSize);
        ints(tokens)[s] = ends ? -1 : token;
        ints(positions)[s] = ends ? 0 : position;
        ints(lengths)[s] = ends ? 0 : position + 1;
        ints(rows)[s] = ends ? -1 : row();
      }
    },

    /** Every launch runs the work again, and leaves its results where the first run did. */
    record(enqueue) {
      const outputs = (): Storage[] => {
        const made: Storage[] = [];
        const { sampleLogits } = kernels;
        backend.fused.sampleLogits = (logits, draws) => {
          const drawn = sampleLogits(logits, draws);
          made.push(drawn);
          return drawn;
        };
        try {
          enqueue();
        } finally {
          backend.fused.sampleLogits = sampleLogits;
        }
        return made;
      };
      isRecording = true;
      const places = outputs();
      isRecording = false;
      const whole = (storage: Storage) => ({ storage, offset: 0, shape: [storage.size] });
      return {
        launch() {
          for (const [i, made] of outputs().entries()) backend.assign(whole(places[i]), whole(made));
        },
        dispose() {},
      };
    },
  };

  Object.assign(backend.fused, kernels);
  return Object.assign(backend, {
    setRows: (...args: Parameters<Backend["setRows"]>) => {
      if (!isRecording) setRows(...args);
    },
    download: async (x: ArrayRef) => {
      const copy = await download(x);
      const turns = delay();
      const before = last;
      const arrival = (async () => {
        for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
        await before;
      })();
      last = arrival;
      await arrival;
      return copy;
    },
  });
}
