import {
  arena,
  attention,
  type Backend,
  backward,
  type DType,
  full,
  type HeadLayout,
  linearLogprob,
  type PagedContext,
  pagedAttention,
  qkNorm,
  randomStream,
  rmsNorm,
  rope,
  type Shape,
  setRows,
  swiglu,
  type Tensor,
  tensor,
  zeros,
} from "../../lib/index.js";
import { normals } from "./support.js";

/** Head sizes: small ones, one of them no power of two, and those that have kernels of their own. */
export const headDims = [6, 16, 64, 128];

/** Query and key heads. Two key heads where there is room: with one alone, sharing them out wrongly would not show. */
export const headGroups = [
  [2, 2],
  [4, 2],
  [14, 2],
  [8, 1],
] as const;

/** A fused operation, its inputs' shapes, and its outputs for them. */
export interface Case {
  readonly name: string;
  readonly shapes: readonly Shape[];
  run(...inputs: Tensor[]): readonly Tensor[];
}

// A prime length: read round and round, the rows of a matrix do not come back.
const noise = normals(1, 1_048_573);

function noiseFrom(start: number, size: number): Float64Array {
  if (start + size <= noise.length) return noise.subarray(start, start + size);
  return Float64Array.from({ length: size }, (_, i) => noise[(start + i) % noise.length]);
}

/** Outputs and then the gradients of the inputs, for inputs and weights on the outputs drawn from fixed seeds. */
export async function evaluate(backend: Backend, dtype: DType, { shapes, run }: Case): Promise<ArrayLike<number>[]> {
  const random = (seed: number, shape: Shape, as: DType) => {
    const size = shape.reduce((a, b) => a * b, 1);
    // Through bf16, so that every dtype computes with the same numbers.
    return tensor(noiseFrom(seed, size), { backend, dtype: "bf16", shape }).to(as);
  };
  return Promise.all(
    arena(() => {
      const inputs = shapes.map((shape, i) => random(100_000 * i, shape, dtype));
      for (const input of inputs) input.requiresGrad = true;
      const outputs = run(...inputs);
      backward(
        outputs,
        outputs.map((output, i) => random(500_000 + 1000 * i, output.shape, output.dtype)),
      );
      const results = [...outputs, ...inputs.map(({ grad }) => grad!)].map((result) => result.data());
      for (const { grad } of inputs) grad?.dispose();
      return results;
    }),
  );
}

/** Where packed sequences of these lengths begin and end. */
export function offsetsOf(batch: readonly number[]): Int32Array {
  let at = 0;
  return Int32Array.from([0, ...batch.map((length) => (at += length))]);
}

export function ints(like: Tensor, values: ArrayLike<number>): Tensor {
  return tensor(Int32Array.from(values), { backend: like.backend, dtype: "i32" });
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

export function attentionCase(name: string, batch: readonly number[], layout: HeadLayout): Case {
  const { heads, kvHeads, headDim } = layout;
  const offsets = offsetsOf(batch);
  return {
    name: `attention, ${name}, ${heads}:${kvHeads} heads of ${headDim}`,
    shapes: [[sum(batch), (heads + 2 * kvHeads) * headDim]],
    run: (x) => [attention(x, offsets, layout)],
  };
}

/** Three query heads and one key head: both the rotated part and the one that passes have their width. */
export function ropeCase(name: string, tokens: number, headDim: number): Case {
  const positions = Int32Array.from({ length: tokens }, (_, i) => 2 * i);
  return {
    name: `rope, ${name}, heads of ${headDim}`,
    shapes: [[tokens, 5 * headDim]],
    run: (x) => [rope(x, ints(x, positions), { heads: 3, kvHeads: 1, headDim, theta: 1e4 })],
  };
}

export function qkNormCase(name: string, tokens: number, headDim: number): Case {
  return {
    name: `qkNorm, ${name}, heads of ${headDim}`,
    shapes: [[tokens, 5 * headDim], [headDim], [headDim]],
    run: (x, q, k) => [qkNorm(x, q, k, { heads: 3, kvHeads: 1, headDim })],
  };
}

export function rmsNormCase(name: string, tokens: number, width: number): Case {
  const shapes = [[tokens, width], [width]];
  return { name: `rmsNorm, ${name}, width ${width}`, shapes, run: (x, w) => [rmsNorm(x, w)] };
}

export function swigluCase(name: string, tokens: number, width: number): Case {
  return { name: `swiglu, ${name}, width ${width}`, shapes: [[tokens, 2 * width]], run: (x) => [swiglu(x)] };
}

/** Logits have the standard deviation 1 / `temperature`. */
export function headCase(name: string, tokens: number, width: number, vocabulary: number, temperature = 0.8): Case {
  const targets = Int32Array.from({ length: tokens }, (_, i) => (7 * i) % vocabulary);
  return {
    name: `linearLogprob, ${name}, width ${width}, vocabulary ${vocabulary}, temperature ${temperature}`,
    shapes: [
      [tokens, width],
      [vocabulary, width],
    ],
    run: (h, w) => {
      const { logprobs, entropy } = linearLogprob(h, w, ints(h, targets), temperature * Math.sqrt(width));
      return [logprobs, entropy];
    },
  };
}

export interface PeakedHead {
  readonly tokens: number;
  readonly width: number;
  readonly vocabulary: number;
  readonly temperature?: number;
}

/**
 * Log-probabilities and entropies of hidden states that point towards their targets to different degrees: logits of the
 * targets up to about 20, targets both certain and unlikely. The inputs are bf16 numbers, whatever holds them.
 */
export async function peakedHead(
  backend: Backend,
  dtype: DType,
  { tokens, width, vocabulary, temperature = 1 }: PeakedHead,
): Promise<[logprobs: ArrayLike<number>, entropy: ArrayLike<number>]> {
  const targets = Array.from({ length: tokens }, (_, i) => (i * 3) % vocabulary);
  const weight = Float64Array.from(noiseFrom(0, vocabulary * width), (value) => 0.3 * value);
  const hidden = normals(2, tokens * width, 0.5).map((value, i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    return value + ((row % 5) / 1.4) * weight[targets[row] * width + column] * 4 * temperature;
  });
  return Promise.all(
    arena(() => {
      const held = (values: Float64Array, shape: Shape) => tensor(values, { backend, dtype: "bf16", shape }).to(dtype);
      const h = held(hidden, [tokens, width]);
      const { logprobs, entropy } = linearLogprob(h, held(weight, [vocabulary, width]), ints(h, targets), temperature);
      return [logprobs.data(), entropy.data()] as const;
    }),
  );
}

/** A conversation's tokens in pages that lie anywhere, handed out in random order. */
/** Pages of sequences of these lengths, in no order, and how many rows the cache has. */
export function scatteredPages(lengths: readonly number[], pageSize: number): { pages: number[][]; rows: number } {
  const counts = lengths.map((length) => Math.ceil(length / pageSize));
  const total = counts.reduce((a, b) => a + b, 3);
  const free = randomStream(3).shuffle(Array.from({ length: total }, (_, i) => i));
  return { pages: counts.map((count) => free.splice(0, count)), rows: total * pageSize };
}

/** Prefill in chunks, then token by token, all sequences together; returns the outputs in packed order. */
export function decodeInPages(
  x: Tensor,
  lengths: readonly number[],
  chunks: readonly number[],
  layout: HeadLayout,
  pageSize: number,
): Tensor {
  const { heads, kvHeads, headDim } = layout;
  const { backend } = x;
  const { pages, rows } = scatteredPages(lengths, pageSize);
  const offsets = offsetsOf(lengths);
  // Rows that no token was written to hold NaN: reading one shows.
  const cache = full([rows, 2 * kvHeads * headDim], Number.NaN, { backend, dtype: x.dtype });
  const result = zeros([x.shape[0], heads * headDim], { backend, dtype: x.dtype });
  const done = lengths.map(() => 0);
  for (let round = 0; done.some((count, s) => count < lengths[s]); round++) {
    const news = lengths.map((length, s) => Math.min(chunks[round] ?? 1, length - done[s]));
    const packed = news.flatMap((count, s) => Array.from({ length: count }, (_, i) => offsets[s] + done[s] + i));
    const places = news.flatMap((count, s) =>
      Array.from({ length: count }, (_, i) => {
        const position = done[s] + i;
        return pages[s][Math.floor(position / pageSize)] * pageSize + (position % pageSize);
      }),
    );
    news.forEach((count, s) => {
      done[s] += count;
    });
    const context: PagedContext = { offsets: offsetsOf(news), lengths: Int32Array.from(done), pages, pageSize };
    arena(() => {
      const part = x.gatherRows(ints(x, packed));
      setRows(cache, ints(x, places), part.slice(1, heads * headDim));
      setRows(result, ints(x, packed), pagedAttention(part, cache, context, layout));
    });
  }
  cache.dispose();
  return result;
}
