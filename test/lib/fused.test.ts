import test from "ava";
import { attention, tensor } from "../../lib/index.js";
import {
  attentionCase,
  type Case,
  decodeInPages,
  evaluate,
  headCase,
  headDims,
  headGroups,
  offsetsOf,
  peakedHead,
  qkNormCase,
  rmsNormCase,
  ropeCase,
  swigluCase,
} from "./fusedCases.js";
import { composed, kernels, largest, normals, relativeGap } from "./support.js";

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

const cases: Case[] = [];
for (const [n, [name, batch]] of Object.entries(lengths).entries()) {
  const tokens = batch.reduce((a, b) => a + b, 0);
  for (const [i, headDim] of headDims.entries()) {
    // Half of all combinations, the other half with the next batch.
    for (const [heads, kvHeads] of headGroups.filter((_, j) => (n + i + j) % 2 === 0)) {
      cases.push(attentionCase(name, batch, { heads, kvHeads, headDim }));
    }
    cases.push(ropeCase(name, tokens, headDim), qkNormCase(name, tokens, headDim));
  }
  for (const width of [2, 6, 64]) {
    cases.push(rmsNormCase(name, tokens, width), swigluCase(name, tokens, width));
    for (const vocabulary of [3, 200]) cases.push(headCase(name, tokens, width, vocabulary));
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
  const head = { tokens: 40, width: 64, vocabulary: 1000 };
  const [exact, actual] = [await peakedHead(composed, "f64", head), await peakedHead(kernels, "bf16", head)];
  const logprobs = Array.from(exact[0]);
  t.true(Math.max(...logprobs) > -0.1 && Math.min(...logprobs) < -5, "targets both certain and unlikely");
  for (const i of [0, 1]) {
    const gap = largest(Float64Array.from(actual[i], (value, j) => value - exact[i][j]));
    t.true(gap < 1e-3, `result ${i}: ${gap}`);
  }
});

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
