import test from "ava";
import { tensor } from "../../../lib/index.js";
import { at, build, inside, type Naive } from "../naive.js";
import { kernels, normals, relativeGap, values } from "../support.js";

const x: Naive = { shape: [2, 3, 4, 5], values: normals(1, 120).map(Math.fround) };

/** The elements along an axis, for each index of the rest. */
function reduced(axis: number, f: (elements: number[]) => number): Naive {
  return build(x.shape.with(axis, 1), (index) =>
    f(Array.from({ length: x.shape[axis] }, (_, i) => at(x, index.with(axis, i)))),
  );
}
const total = (elements: number[]) => elements.reduce((a, b) => a + b, 0);

for (const axis of [0, 1, 2, 3]) {
  test(`sum, mean, max and argmax along axis ${axis}`, async (t) => {
    const input = inside(x, "f64");
    const away = x.shape.toSpliced(axis, 1);
    const cases = {
      sum: [input.sum(axis), reduced(axis, total)],
      mean: [input.mean(axis), reduced(axis, (elements) => total(elements) / elements.length)],
      max: [input.max(axis), reduced(axis, (elements) => Math.max(...elements))],
      argmax: [input.argmax(axis), reduced(axis, (elements) => elements.indexOf(Math.max(...elements)))],
    } as const;
    for (const [op, [actual, expected]] of Object.entries(cases)) {
      t.deepEqual(actual.shape, away, op);
      t.true(relativeGap(await actual.data(), expected.values) < 1e-14, op);
    }
    t.is(cases.argmax[0].dtype, "i32");
    t.deepEqual(input.sum(axis, true).shape, x.shape.with(axis, 1));
    t.deepEqual(input.mean(axis - 4, true).shape, x.shape.with(axis, 1));
    t.deepEqual(input.max(axis, true).shape, x.shape.with(axis, 1));
  });
}

test("sum and mean of everything", async (t) => {
  const input = inside(x);
  t.true(relativeGap(await values(input.sum()), [total(Array.from(x.values))]) < 1e-6);
  t.true(relativeGap(await values(input.mean()), [total(Array.from(x.values)) / 120]) < 1e-6);
  t.deepEqual(input.sum(undefined, true).shape, [1, 1, 1, 1]);
});

test("sums of 16-bit floats accumulate wide: neither stuck at 256 nor overflowing on the way", async (t) => {
  const ones = (dtype: "bf16" | "f16") => inside({ shape: [4096], values: new Float32Array(4096).fill(1) }, dtype);
  t.deepEqual(await values(ones("bf16").sum(0)), [4096]);
  t.deepEqual(await values(ones("f16").sum(0)), [4096]);
  t.deepEqual(await values(inside({ shape: [3], values: [60000, 60000, -60000] }, "f16").sum(0)), [60000]);
});

test("integers sum as integers; the first of equals is the argmax; NaN is the max", async (t) => {
  t.deepEqual(await values(inside({ shape: [2, 2], values: [1, 2, 3, -4] }, "i32").sum(1)), [3, -1]);
  t.deepEqual(await values(inside({ shape: [5], values: [1, 3, 2, 3, 3] }).argmax(0)), [1]);
  t.deepEqual(await values(inside({ shape: [3], values: [1, Number.NaN, 2] }).max(0)), [Number.NaN]);
});

test("the gradient of max is shared evenly among equals", async (t) => {
  const input = tensor([1, 3, 3, 2], { backend: kernels });
  input.requiresGrad = true;
  input.max(0).backward();
  t.deepEqual(await values(input.grad!), [0, 0.5, 0.5, 0]);
});

for (const dtype of ["f32", "f64"] as const) {
  test(`softmax and logSoftmax, ${dtype}, along the last axis`, async (t) => {
    const weights = build(x.shape, (index) => Math.exp(at(x, index)));
    const sums = build([2, 3, 4, 1], (index) =>
      total(Array.from({ length: 5 }, (_, i) => at(weights, index.with(3, i)))),
    );
    const expected = build(x.shape, (index) => at(weights, index) / at(sums, index));
    const tolerance = dtype === "f32" ? 1e-6 : 1e-14;
    t.true(relativeGap(await values(inside(x, dtype).softmax()), expected.values) < tolerance);
    const logs = Array.from(expected.values, Math.log);
    t.true(relativeGap(await values(inside(x, dtype).logSoftmax()), logs) < tolerance);
  });
}

test("softmax of huge and of equal logits is finite", async (t) => {
  const logits = inside({ shape: [2, 3], values: [1e4, 1e4 - 1, -1e30, 5, 5, 5] });
  const third = Math.fround(1 / 3);
  const expected = [1 / (1 + Math.exp(-1)), 1 / (1 + Math.exp(1)), 0, third, third, third];
  t.true(relativeGap(await values(logits.softmax()), expected) < 1e-6);
});
