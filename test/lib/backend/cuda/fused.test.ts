import test from "ava";
import type { AdamwStep, FusedKernels } from "../../../../lib/backend/backend.js";
import {
  Arena,
  type Backend,
  createCpu,
  type DType,
  embedding,
  type HeadLayout,
  linear,
  linearLogprob,
  rmsNorm,
  type Shape,
  swiglu,
  type Tensor,
  tensor,
} from "../../../../lib/index.js";
import { fresh } from "../../../../lib/tensor.js";
import {
  attentionCase,
  type Case,
  decodeInPages,
  evaluate,
  headCase,
  headDims,
  headGroups,
  peakedHead,
  qkNormCase,
  rmsNormCase,
  ropeCase,
  swigluCase,
} from "../../fusedCases.js";
import { composed, kernels, largest, normals, relativeGap } from "../../support.js";
import { cpu, cudaTest, firstDifference, openCuda, poison } from "./support.js";

/*
 * Expected values are those of the composed twins in f64 on the cpu backend, and for the long sequences, where these would
 * take minutes, of its kernels in f64, which test/lib/fused.test.ts holds to the composed twins within 1e-11.
 */

interface Example {
  readonly work: Case;
  readonly oracle: Backend;
  /** Whether the composed twin in bf16, which allows the errors there, is affordable. */
  readonly inBf16: boolean;
}

const short: Record<string, number[]> = {
  "one token": [1],
  "7 tokens": [7],
  "64 tokens": [64],
  "129 tokens": [129],
  "uneven with empty ones": [0, 5, 0, 33, 1, 0, 64, 65],
  nothing: [],
  "an empty sequence": [0],
};

const fast = createCpu();
const examples: Example[] = [];
const add = (work: Case, inBf16 = true) => examples.push({ work, oracle: composed, inBf16 });
const addLong = (work: Case, inBf16: boolean) => examples.push({ work, oracle: fast, inBf16 });

for (const [name, batch] of Object.entries(short)) {
  const tokens = batch.reduce((a, b) => a + b, 0);
  for (const headDim of headDims) {
    for (const [heads, kvHeads] of headGroups) add(attentionCase(name, batch, { heads, kvHeads, headDim }));
    add(ropeCase(name, tokens, headDim));
    add(qkNormCase(name, tokens, headDim));
  }
  for (const width of [2, 6, 64]) {
    add(rmsNormCase(name, tokens, width));
    add(swigluCase(name, tokens, width));
    for (const vocabulary of [3, 200]) add(headCase(name, tokens, width, vocabulary));
  }
}
for (const [name, batch] of [
  ["1000 tokens", [1000]],
  ["uneven, 1000 the longest", [17, 0, 1000, 383, 1, 128]],
] as const) {
  for (const [headDim, heads, kvHeads] of [
    [128, 2, 1],
    [64, 7, 1],
    [16, 8, 1],
    [6, 2, 2],
  ]) {
    addLong(attentionCase(name, batch, { heads, kvHeads, headDim }), heads === 2);
  }
}
for (const [headDim, heads, kvHeads, inBf16] of [
  [128, 1, 1, true],
  [64, 2, 1, true],
  [128, 2, 1, false],
  [16, 7, 1, false],
  [6, 8, 1, false],
] as const) {
  addLong(attentionCase("4096 tokens", [4096], { heads, kvHeads, headDim }), inBf16);
}
for (const tokens of [1000, 4096]) {
  for (const headDim of [64, 128]) {
    addLong(ropeCase(`${tokens} tokens`, tokens, headDim), true);
    addLong(qkNormCase(`${tokens} tokens`, tokens, headDim), true);
  }
}
for (const [tokens, width] of [
  [4096, 64],
  [1000, 896],
  [257, 2048],
  [129, 3584],
  [33, 4095],
]) {
  addLong(rmsNormCase(`${tokens} tokens`, tokens, width), true);
  addLong(swigluCase(`${tokens} tokens`, tokens, width), true);
}
for (const temperature of [0.3, 1, 2]) add(headCase("other temperatures", 129, 64, 200, temperature));
addLong(headCase("a large vocabulary", 150, 64, 20_000), true);
addLong(headCase("more rows than columns", 3000, 16, 5000), true);
addLong(headCase("Qwen's vocabulary", 5, 64, 151_936), true);
addLong(headCase("Qwen's vocabulary, narrow", 3, 6, 151_936), true);

const operations = ["attention", "rope", "qkNorm", "rmsNorm", "swiglu", "linearLogprob"];

test("every case belongs to an operation", (t) => {
  t.true(examples.every(({ work }) => operations.some((name) => work.name.startsWith(name))));
});

/** Elements that are compared as one: a few rows of a long result. */
const CHUNK = 4096;

/**
 * Largest ratio over pieces of a result of its root mean square error to that of the exact values, or to `allowed` values'
 * error: late rows of a long attention are small, and an error there vanishes beside the largest element of all.
 */
function worstPiece(actual: ArrayLike<number>, exact: ArrayLike<number>, allowed?: ArrayLike<number>): number {
  let worst = 0;
  for (let from = 0; from < exact.length; from += CHUNK) {
    const to = Math.min(exact.length, from + CHUNK);
    let [error, scale, limit] = [0, 0, 0];
    for (let i = from; i < to; i++) {
      error += (actual[i] - exact[i]) ** 2;
      scale += exact[i] ** 2;
      if (allowed) limit += (allowed[i] - exact[i]) ** 2;
    }
    const ratio = Math.sqrt(error / (allowed ? limit + 1e-12 * scale : scale));
    if (error !== 0) worst = Math.max(worst, Number.isNaN(ratio) ? Number.POSITIVE_INFINITY : ratio);
  }
  return worst;
}

for (const name of operations) {
  const own = examples.filter(({ work }) => work.name.startsWith(name));

  cudaTest(`${name}, f32: values and gradients within 3e-5 of f64 over the grid`, async (t) => {
    const cuda = await openCuda();
    for (const { work, oracle } of own) {
      const exact = await evaluate(oracle, "f64", work);
      poison(cuda);
      const actual = await evaluate(cuda, "f32", work);
      t.is(actual.length, exact.length);
      for (const [i, result] of actual.entries()) {
        const gap = relativeGap(result, exact[i]);
        t.true(gap < 3e-5, `${work.name}, result ${i}: ${gap}`);
        if (result.length <= CHUNK) continue;
        const piece = worstPiece(result, exact[i]);
        t.true(piece < 3e-5, `${work.name}, result ${i}: ${piece} in a piece`);
      }
    }
  });

  cudaTest(`${name}, bf16: the error is at most twice that of the composed form in bf16, over the grid`, async (t) => {
    const cuda = await openCuda();
    for (const { work, oracle } of own.filter(({ inBf16 }) => inBf16)) {
      const exact = await evaluate(oracle, "f64", work);
      const twin = await evaluate(composed, "bf16", work);
      poison(cuda);
      const actual = await evaluate(cuda, "bf16", work);
      for (const [i, result] of actual.entries()) {
        const [error, allowed] = [relativeGap(result, exact[i]), relativeGap(twin[i], exact[i])];
        t.true(error <= 2 * allowed + 1e-6, `${work.name}, result ${i}: ${error}, composed ${allowed}`);
        if (result.length <= CHUNK) continue;
        const piece = worstPiece(result, exact[i], twin[i]);
        t.true(piece <= 3, `${work.name}, result ${i}: ${piece} times the composed error in a piece`);
      }
    }
  });

  cudaTest(`${name}: two runs give the same bits`, async (t) => {
    const cuda = await openCuda();
    for (const dtype of ["f32", "bf16"] as const) {
      for (const { work } of own.slice(-6)) {
        const [first, second] = [await evaluate(cuda, dtype, work), await evaluate(cuda, dtype, work)];
        for (const [i, result] of first.entries()) {
          t.is(firstDifference(result, second[i]), -1, `${work.name}, ${dtype}, result ${i}`);
        }
      }
    }
  });
}

cudaTest("attention: a sequence gives the same bits alone and among others", async (t) => {
  const cuda = await openCuda();
  const layout: HeadLayout = { heads: 4, kvHeads: 2, headDim: 64 };
  for (const dtype of ["f32", "bf16"] as const) {
    const alone = await evaluate(cuda, dtype, attentionCase("alone", [300], layout));
    const together = await evaluate(cuda, dtype, attentionCase("together", [300, 77, 0, 129], layout));
    // Both draw the same numbers for the same elements.
    for (const i of [0, 1]) t.is(firstDifference(alone[i], together[i]), -1, `${dtype}, result ${i}`);
  }
});

for (const vocabulary of [3, 200, 20_000, 151_936]) {
  for (const temperature of [0.7, 1, 1.5]) {
    cudaTest(
      `linearLogprob, bf16, vocabulary ${vocabulary}, temperature ${temperature}: within 1e-3 of f64 with target logits up to 20`,
      async (t) => {
        const head = { tokens: vocabulary > 100_000 ? 10 : 40, width: 64, vocabulary, temperature };
        const oracle = vocabulary > 1000 ? fast : composed;
        const [exact, actual] = [
          await peakedHead(oracle, "f64", head),
          await peakedHead(await openCuda(), "bf16", head),
        ];
        for (const i of [0, 1]) {
          const gap = largest(Float64Array.from(exact[i], (value, j) => actual[i][j] - value));
          t.true(gap < 1e-3, `result ${i}: ${gap}`);
        }
      },
    );
  }
}

for (const [heads, kvHeads, headDim, pageSize] of [
  [2, 2, 6, 1],
  [4, 2, 16, 5],
  [7, 1, 64, 16],
  [16, 2, 128, 16],
]) {
  cudaTest(
    `pagedAttention, ${heads}:${kvHeads} heads of ${headDim}, pages of ${pageSize}: prefill in chunks and decode equal attention`,
    async (t) => {
      const cuda = await openCuda();
      const layout = { heads, kvHeads, headDim };
      const lengths = [17, 0, 140, 1];
      const shape = [158, (heads + 2 * kvHeads) * headDim];
      const numbers = await tensor(normals(4, shape[0] * shape[1]), { backend: cpu, dtype: "bf16", shape }).data();
      const run = (backend: Backend, dtype: DType, chunks: readonly number[]) =>
        decodeInPages(tensor(numbers, { backend, dtype, shape }), lengths, chunks, layout, pageSize).data();
      const exact = await run(kernels, "f64", [200]);
      for (const chunks of [[200], [13, 100], []]) {
        const gap = relativeGap(await run(cuda, "f32", chunks), exact);
        t.true(gap < 3e-5, `chunks ${chunks}, f32: ${gap}`);
        const allowed = relativeGap(await run(composed, "bf16", chunks), exact);
        const error = relativeGap(await run(cuda, "bf16", chunks), exact);
        t.true(error <= 2 * allowed + 1e-6, `chunks ${chunks}, bf16: ${error}, composed ${allowed}`);
      }
    },
  );
}

/** Random numbers that bf16 holds, on a backend. */
function numbers(backend: Backend, dtype: DType, seed: number, shape: Shape, scale = 1): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(normals(seed, size, scale), { backend, dtype: "bf16", shape }).to(dtype);
}

function kernelsOf(backend: Backend): FusedKernels {
  return backend.fused as FusedKernels;
}

for (const [heads, kvHeads, headDim] of [
  [16, 2, 128],
  [14, 2, 64],
]) {
  cudaTest(
    `pagedAttention, ${heads}:${kvHeads} heads of ${headDim}: few rows of many keys, in chunks that are merged, have the bits of a prefill`,
    async (t) => {
      const lengths = [5125, 1030, 4100, 300];
      const shape = [lengths.reduce((a, b) => a + b), (heads + 2 * kvHeads) * headDim];
      const x = tensor(normals(6, shape[0] * shape[1]), { backend: await openCuda(), dtype: "bf16", shape });
      const run = (chunks: readonly number[]) =>
        decodeInPages(x, lengths, chunks, { heads, kvHeads, headDim }, 16).data();
      const whole = await run([6000]);
      // New tokens one at a time, and several on both sides of the end of a chunk of 512.
      for (const chunks of [
        [1022, 1, 1, 5, 1, 3062, 5, 1022, 1, 1, 5],
        [5114, 3, 5],
      ]) {
        t.is(firstDifference(await run(chunks), whole), -1, `rounds of ${chunks}`);
      }
    },
  );
}

cudaTest("rmsNorm and swiglu: few rows have the bits of many", async (t) => {
  const cuda = await openCuda();
  for (const dtype of ["bf16", "f32"] as const) {
    for (const width of [896, 2048, 3584, 5120]) {
      using arena = new Arena();
      const [x, weight] = arena.run(() => [numbers(cuda, dtype, 1, [1200, width]), numbers(cuda, dtype, 2, [width])]);
      const both = (of: Tensor) => arena.run(() => [rmsNorm(of, weight), swiglu(of)]);
      const many = both(x);
      for (const rows of [1, 5, 64, 256, 300]) {
        for (const [i, few] of both(arena.run(() => x.slice(0, 700, 700 + rows))).entries()) {
          const expected = arena.run(() => many[i].slice(0, 700, 700 + rows));
          const what = `${["rmsNorm", "swiglu"][i]}, ${dtype}, ${rows} × ${width}`;
          t.is(firstDifference(await few.data(), await expected.data()), -1, what);
        }
      }
    }
  }
});

cudaTest("matmulWide and scatterRowsWide: f32 from 16-bit operands, and added where a gradient is", async (t) => {
  const cuda = await openCuda();
  const { matmulWide, scatterRowsWide } = kernelsOf(cuda);
  for (const [tokens, n, k] of [
    [1, 3, 5],
    [64, 128, 64],
    [257, 129, 77],
    [4096, 64, 128],
  ]) {
    for (const dtype of ["f32", "bf16", "f16"] as const) {
      using arena = new Arena();
      const on = (backend: Backend, as: DType) => [
        numbers(backend, as, 1, [tokens, n]),
        numbers(backend, as, 2, [tokens, k]),
        numbers(backend, backend === cpu ? "f64" : "f32", 3, [n, k]),
      ];
      const index = Int32Array.from({ length: tokens }, (_, i) => (i % 5 === 4 ? -1 : (i * i) % n));
      const ids = (backend: Backend) => tensor(index, { backend, dtype: "i32" });
      const [dy, x, before] = arena.run(() => on(cpu, "f64"));
      const [dyOn, xOn, into] = arena.run(() => on(cuda, dtype));
      const spec = { batch: 1, m: n, n: k, k: tokens, transposeA: true, transposeB: false };
      const rowsInto = arena.run(() => into.mul(1));
      const results = arena.run(() => ({
        product: [dy.matmul(x, { transposeA: true }), fresh(matmulWide(dyOn, xOn, spec), [n, k])],
        rows: [x.scatterRows(ids(cpu), n), fresh(scatterRowsWide(xOn, ids(cuda), n), [n, k])],
      }));
      t.is(matmulWide(dyOn, xOn, spec, into), into.storage);
      t.is(
        arena.run(() => scatterRowsWide(xOn, ids(cuda), n, rowsInto)),
        rowsInto.storage,
      );
      for (const [name, [exact, actual], added] of [
        ["matmulWide", results.product, into],
        ["scatterRowsWide", results.rows, rowsInto],
      ] as const) {
        const label = `${name}, ${dtype}, ${tokens} tokens, ${n} × ${k}`;
        t.is(actual.dtype, "f32");
        t.true(relativeGap(await actual.data(), await exact.data()) < 1e-5, label);
        const sum = await arena.run(() => exact.add(before)).data();
        t.true(relativeGap(await added.data(), sum) < 1e-5, `${label}, added`);
      }
    }
  }
});

cudaTest("gradients of several backward passes add up, f32 for bf16 parameters", async (t) => {
  const run = async (backend: Backend, dtype: DType, times: number) => {
    using arena = new Arena();
    const leaves = arena.run(() => [
      numbers(backend, dtype, 1, [33, 16]),
      numbers(backend, dtype, 2, [24, 16], 0.3),
      numbers(backend, dtype, 3, [33, 24], 0.3),
    ]);
    const [table, weight, head] = leaves;
    for (const leaf of leaves) leaf.requiresGrad = true;
    const ids = Int32Array.from({ length: 40 }, (_, i) => (i * 7) % 33);
    for (let time = 0; time < times; time++) {
      arena.run(() => {
        const index = tensor(ids, { backend, dtype: "i32" });
        const { logprobs } = linearLogprob(linear(embedding(table, index, 7), weight), head, index);
        logprobs.sum().backward();
      });
    }
    const grads = await Promise.all(leaves.map(async ({ grad }) => ({ dtype: grad!.dtype, data: await grad!.data() })));
    for (const { grad } of leaves) grad!.dispose();
    return grads;
  };
  const cuda = await openCuda();
  const [exact, twin] = [await run(composed, "f64", 3), await run(composed, "bf16", 3)];
  const [single, half] = [await run(cuda, "f32", 3), await run(cuda, "bf16", 3)];
  exact.forEach(({ data }, i) => {
    t.is(half[i].dtype, "f32");
    t.true(relativeGap(single[i].data, data) < 3e-5, `gradient ${i}: ${relativeGap(single[i].data, data)}`);
    t.true(relativeGap(half[i].data, data) <= 2 * relativeGap(twin[i].data, data), `gradient ${i}, bf16`);
  });
});

const adamwStep: AdamwStep = {
  lr: 0.01,
  beta1: 0.9,
  beta2: 0.99,
  eps: 1e-8,
  weightDecay: 0.1,
  step: 3,
  gradScale: 0.7,
};
const slotSizes = [0, 1, 3, 8, 255, 257, 4099, 1_000_003];

cudaTest("adamw and adamwMany: as in f64, masters rounded into 16-bit parameters", async (t) => {
  const cuda = await openCuda();
  for (const dtype of ["f32", "bf16", "f16"] as const) {
    for (const many of [false, true]) {
      using arena = new Arena();
      const slots = (backend: Backend, param: DType, wide: DType) =>
        slotSizes.map((size, i) => {
          const at = (seed: number, scale: number) => numbers(backend, wide, 10 * i + seed, [size], scale);
          const master = at(1, 1);
          const own = param === wide;
          return {
            param: own ? master : master.to(param),
            master,
            grad: at(2, 0.1),
            m: at(3, 0.05),
            v: at(4, 0.1).square(),
          };
        });
      const expected = arena.run(() => slots(cpu, "f64", "f64"));
      const actual = arena.run(() => slots(cuda, dtype, "f32"));
      for (const { param, master, grad, m, v } of expected) cpu.fused.adamw!(param, master, grad, m, v, adamwStep);
      if (many) kernelsOf(cuda).adamwMany(actual, adamwStep);
      else for (const { param, master, grad, m, v } of actual) cuda.fused.adamw!(param, master, grad, m, v, adamwStep);
      for (const [i, slot] of actual.entries()) {
        for (const part of ["master", "m", "v"] as const) {
          const gap = relativeGap(await slot[part].data(), await expected[i][part].data());
          t.true(gap < 1e-6, `${part} of ${slotSizes[i]}, ${dtype}: ${gap}`);
        }
        if (dtype === "f32") continue;
        const rounded = tensor(await slot.master.data(), { backend: cpu, dtype });
        t.deepEqual(await slot.param.data(), await rounded.data(), `${dtype} parameter of ${slotSizes[i]}`);
      }
    }
  }
});

cudaTest("sumSquares: all arrays together, the same bits each time", async (t) => {
  const cuda = await openCuda();
  using arena = new Arena();
  const parts = arena.run(() => slotSizes.map((size, i) => numbers(cuda, "f32", i, [size])));
  let exact = 0;
  for (const part of parts) for (const value of await part.data()) exact += value ** 2;
  const sums = arena.run(() => [1, 2].map(() => fresh(kernelsOf(cuda).sumSquares(parts), [])));
  const [first, second] = [await sums[0].item(), await sums[1].item()];
  t.true(Math.abs(first - exact) < 1e-5 * exact, `${first} for ${exact}`);
  t.is(first, second);
});

cudaTest("linearLogprob: a head that was frozen keeps the gradient it has", async (t) => {
  const cuda = await openCuda();
  using arena = new Arena();
  const [hidden, weight] = arena.run(() => [numbers(cuda, "bf16", 1, [8, 16]), numbers(cuda, "bf16", 2, [32, 16])]);
  hidden.requiresGrad = weight.requiresGrad = true;
  const targets = arena.run(() => tensor(new Int32Array(8), { backend: cuda, dtype: "i32" }));
  const step = () => arena.run(() => linearLogprob(hidden, weight, targets).logprobs.sum().backward());
  step();
  const before = await weight.grad!.data();
  weight.requiresGrad = false;
  step();
  t.false(weight.grad!.storage.freed);
  t.deepEqual(await weight.grad!.data(), before);
  for (const { grad } of [hidden, weight]) grad!.dispose();
});
