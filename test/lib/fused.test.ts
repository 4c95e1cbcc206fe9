import test from "ava";
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
import { composed, kernels, largest, normals, relativeGap } from "./support.js";

/** A fused operation, its inputs' shapes, and its outputs for them. */
interface Case {
  readonly name: string;
  readonly shapes: readonly Shape[];
  run(...inputs: Tensor[]): readonly Tensor[];
}

const noise = normals(1, 1 << 20);

/** Outputs and then the gradients of the inputs, for inputs and weights on the outputs drawn from fixed seeds. */
async function evaluate(backend: Backend, dtype: DType, { shapes, run }: Case): Promise<ArrayLike<number>[]> {
  const random = (seed: number, shape: Shape, as: DType) => {
    const size = shape.reduce((a, b) => a * b, 1);
    // Through bf16, so that every dtype computes with the same numbers.
    return tensor(noise.subarray(seed, seed + size), { backend, dtype: "bf16", shape }).to(as);
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

const lengths: Record<string, number[]> = {
  "one token": [1],
  "7 tokens": [7],
  "64 tokens": [64],
  "129 tokens": [129],
  "300 tokens": [300],
  "uneven with empty ones": [0, 5, 0, 33, 1, 0],
  nothing: [],
  "an empty sequence": [0],
};

function offsetsOf(batch: readonly number[]): Int32Array {
  let at = 0;
  return Int32Array.from([0, ...batch.map((length) => (at += length))]);
}

const headDims = [6, 16, 64, 128];
// Two key heads where there is room: with one alone, sharing them out wrongly would not show.
const groups = [
  [2, 2],
  [4, 2],
  [14, 2],
  [8, 1],
];

function ints(like: Tensor, values: ArrayLike<number>): Tensor {
  return tensor(Int32Array.from(values), { backend: like.backend, dtype: "i32" });
}

function headCase(name: string, tokens: number, width: number, vocabulary: number): Case {
  const targets = Int32Array.from({ length: tokens }, (_, i) => (7 * i) % vocabulary);
  return {
    name: `linearLogprob, ${name}, vocabulary ${vocabulary}`,
    shapes: [
      [tokens, width],
      [vocabulary, width],
    ],
    run: (h, w) => {
      const { logprobs, entropy } = linearLogprob(h, w, ints(h, targets), 0.8 * Math.sqrt(width));
      return [logprobs, entropy];
    },
  };
}

const cases: Case[] = [];
for (const [n, [batchName, batch]] of Object.entries(lengths).entries()) {
  const offsets = offsetsOf(batch);
  const tokens = offsets.at(-1)!;
  for (const [i, headDim] of headDims.entries()) {
    // Half of all combinations, the other half with the next batch.
    for (const [heads, kvHeads] of groups.filter((_, j) => (n + i + j) % 2 === 0)) {
      const layout = { heads, kvHeads, headDim };
      const shapes = [[tokens, (heads + 2 * kvHeads) * headDim]];
      const name = `${batchName}, ${heads}:${kvHeads} heads of ${headDim}`;
      cases.push({ name: `attention, ${name}`, shapes, run: (x) => [attention(x, offsets, layout)] });
    }
    const layout = { heads: 3, kvHeads: 1, headDim };
    const shapes = [[tokens, 5 * headDim]];
    const name = `${batchName}, heads of ${headDim}`;
    const positions = Int32Array.from({ length: tokens }, (_, i) => 2 * i);
    cases.push(
      {
        name: `rope, ${name}`,
        shapes,
        run: (x) => [rope(x, ints(x, positions), { ...layout, theta: 1e4 })],
      },
      {
        name: `qkNorm, ${name}`,
        shapes: [...shapes, [headDim], [headDim]],
        run: (x, q, k) => [qkNorm(x, q, k, layout)],
      },
    );
  }
  for (const width of [2, 6, 64]) {
    const name = `${batchName}, width ${width}`;
    cases.push(
      { name: `rmsNorm, ${name}`, shapes: [[tokens, width], [width]], run: (x, w) => [rmsNorm(x, w)] },
      { name: `swiglu, ${name}`, shapes: [[tokens, 2 * width]], run: (x) => [swiglu(x)] },
    );
    for (const vocabulary of [3, 200]) {
      cases.push(headCase(name, tokens, width, vocabulary));
    }
  }
}

// More logits than the cpu kernel holds at once.
cases.push(headCase("several chunks", 150, 4, 20_000));

test("the two halves are what they are taken for", (t) => {
  t.deepEqual(Object.keys(composed.fused), []);
  t.is(Object.keys(kernels.fused).length, 13);
});

for (const name of ["attention", "rope", "qkNorm", "rmsNorm", "swiglu", "linearLogprob"]) {
  const own = cases.filter((example) => example.name.startsWith(name));
  const some = own.filter((_, i) => i % 3 === 0);
  for (const [dtype, examples, tolerance] of [
    ["f32", own, 3e-5],
    ["f64", some, 1e-11],
  ] as const) {
    test(`${name}, ${dtype}: kernel and composed agree in values and gradients over the grid`, async (t) => {
      for (const example of examples) {
        const [actual, expected] = [await evaluate(kernels, dtype, example), await evaluate(composed, dtype, example)];
        for (const [i, values] of actual.entries()) {
          const gap = relativeGap(values, expected[i]);
          t.true(gap < tolerance, `${example.name}, result ${i}: ${gap}`);
        }
      }
    });
  }

  test(`${name}, bf16: the kernel's error is at most twice that of the composed form`, async (t) => {
    for (const example of some) {
      const exact = await evaluate(composed, "f64", example);
      const [actual, twin] = [await evaluate(kernels, "bf16", example), await evaluate(composed, "bf16", example)];
      for (const [i, values] of actual.entries()) {
        const [error, allowed] = [relativeGap(values, exact[i]), relativeGap(twin[i], exact[i])];
        t.true(error <= 2 * allowed + 1e-6, `${example.name}, result ${i}: ${error}, composed ${allowed}`);
      }
    }
  });
}

test("attention shows each token its own sequence up to itself, and nothing else", async (t) => {
  const layout = { heads: 2, kvHeads: 1, headDim: 4 };
  const offsets = Int32Array.of(0, 3, 7);
  const base = normals(1, 7 * 16);
  for (const backend of [kernels, composed]) {
    const run = async (values: Float64Array) =>
      (await attention(tensor(values, { backend, shape: [7, 16] }), offsets, layout).data()).slice();
    const before = await run(base);
    for (const [changed, seenBy] of [
      [0, [0, 1, 2]],
      [2, [2]],
      [4, [4, 5, 6]],
    ] as const) {
      const after = await run(base.map((value, i) => (Math.floor(i / 16) === changed ? value + 1 : value)));
      const moved = [0, 1, 2, 3, 4, 5, 6].filter(
        (row) => largest(after.slice(row * 8, row * 8 + 8).map((value, i) => value - before[row * 8 + i])) > 0,
      );
      t.deepEqual(moved, [...seenBy], `token ${changed}, ${backend.name}`);
    }
  }
});

test("linearLogprob, bf16: within 1e-3 of f64 on the same inputs with target logits up to 20", async (t) => {
  const [tokens, width, vocabulary] = [40, 64, 1000];
  const targets = Array.from({ length: tokens }, (_, i) => i * 3);
  const weight = normals(1, vocabulary * width, 0.3);
  // Each hidden state points towards its target, so that the target's logit is large.
  const hidden = normals(2, tokens * width, 0.5).map((noise, i) => {
    const [row, column] = [Math.floor(i / width), i % width];
    return noise + ((row % 5) / 1.4) * weight[targets[row] * width + column] * 4;
  });
  const run = (backend: Backend, dtype: DType) => {
    const held = (values: Float64Array, shape: Shape) => tensor(values, { backend, dtype: "bf16", shape }).to(dtype);
    const h = held(hidden, [tokens, width]);
    const { logprobs, entropy } = linearLogprob(h, held(weight, [vocabulary, width]), ints(h, targets));
    return Promise.all([logprobs.data(), entropy.data()]);
  };
  const [exact, actual] = [await run(composed, "f64"), await run(kernels, "bf16")];
  const logits = Float64Array.from(exact[0], (logprob) => logprob);
  t.true(Math.max(...logits) > -0.1 && Math.min(...logits) < -5, "targets both certain and unlikely");
  for (const i of [0, 1]) {
    const gap = largest(Float64Array.from(actual[i], (value, j) => value - exact[i][j]));
    t.true(gap < 1e-3, `result ${i}: ${gap}`);
  }
});

/** A conversation's tokens in pages that lie anywhere, handed out in random order. */
function scatteredPages(lengths: readonly number[], pageSize: number): { pages: number[][]; rows: number } {
  const counts = lengths.map((length) => Math.ceil(length / pageSize));
  const total = counts.reduce((a, b) => a + b, 3);
  const free = randomStream(3).shuffle(Array.from({ length: total }, (_, i) => i));
  return { pages: counts.map((count) => free.splice(0, count)), rows: total * pageSize };
}

/** Prefill in chunks, then token by token, all sequences together; returns the outputs in packed order. */
function decodeInPages(
  x: Tensor,
  lengths: readonly number[],
  chunks: readonly number[],
  layout: HeadLayout,
  pageSize: number,
) {
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

for (const [half, backend] of [
  ["kernel", kernels],
  ["composed", composed],
] as const) {
  for (const [heads, kvHeads, headDim, pageSize] of [
    [2, 2, 6, 1],
    [4, 2, 16, 5],
    [7, 1, 16, 16],
    [8, 1, 64, 4],
  ]) {
    test(`pagedAttention, ${half}, ${heads}:${kvHeads} heads of ${headDim}, pages of ${pageSize}: prefill in chunks and decode equal attention`, async (t) => {
      const layout = { heads, kvHeads, headDim };
      const lengths = [17, 0, 40, 1];
      const tokens = 58;
      const shape = [tokens, (heads + 2 * kvHeads) * headDim];
      const x = tensor(normals(4, shape[0] * shape[1]), { backend, dtype: "f64", shape });
      const expected = await attention(x, offsetsOf(lengths), layout).data();
      for (const chunks of [[100], [13, 20], [1], []]) {
        const gap = relativeGap(await decodeInPages(x, lengths, chunks, layout, pageSize).data(), expected);
        t.true(gap < 1e-12, `chunks ${chunks}: ${gap}`);
      }
    });
  }
}
