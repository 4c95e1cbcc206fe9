import test from "ava";
import { concat, type DType, setRows, tensor, zeros } from "../../../lib/index.js";
import { embedding } from "../../../lib/ops/embedding.js";
import { at, build, inside, type Naive, read } from "../naive.js";
import { kernels, values } from "../support.js";

/** Different whole numbers that every dtype holds. */
function counting(...shape: number[]): Naive {
  let next = 1;
  return build(shape, () => next++);
}

const dtypes: DType[] = ["f32", "f64", "bf16", "f16", "i32", "u8"];

for (const dtype of dtypes) {
  test(`permute, ${dtype}: element [i, j, k] lands where the axes say`, async (t) => {
    for (const axes of [
      [0, 1, 2],
      [2, 0, 1],
      [1, 0, 2],
      [0, 2, 1],
      [2, 1, 0],
    ]) {
      const x = counting(2, 3, 40);
      const shape = axes.map((axis) => x.shape[axis]);
      const expected = build(shape, (index) =>
        at(
          x,
          [0, 1, 2].map((axis) => index[axes.indexOf(axis)]),
        ),
      );
      if (dtype !== "u8") t.deepEqual(await read(inside(x, dtype).permute(axes)), expected);
      else t.deepEqual((await read(inside(x, dtype).permute(axes))).shape, shape);
    }
  });

  test(`slice, ${dtype}: any axis, counted from either end`, async (t) => {
    const x = counting(4, 3, 5);
    for (const [axis, start, end] of [
      [0, 1, 3],
      [0, -2, undefined],
      [1, 1, 2],
      [2, 1, -1],
      [-1, 0, 2],
      [1, 1, 1],
      [0, 4, 4],
    ] as const) {
      const along = axis < 0 ? axis + 3 : axis;
      const from = start < 0 ? start + x.shape[along] : start;
      const to = end === undefined ? x.shape[along] : end < 0 ? end + x.shape[along] : end;
      const expected = build(x.shape.with(along, to - from), (index) => at(x, index.with(along, index[along] + from)));
      t.deepEqual(await read(inside(x, dtype).slice(axis, start, end)), expected, `${[axis, start, end]}`);
    }
  });

  test(`concat, ${dtype}: joins along any axis, empty parts included`, async (t) => {
    for (const axis of [0, 1, 2]) {
      const parts = [2, 0, 3].map((extent) => counting(...[2, 3, 2].with(axis, extent)));
      const expected = build([2, 3, 2].with(axis, 5), (index) => {
        const i = index[axis];
        return i < 2 ? at(parts[0], index) : at(parts[2], index.with(axis, i - 2));
      });
      const y = concat(
        parts.map((part) => inside(part, dtype)),
        axis,
      );
      t.deepEqual(await read(y), expected);
      t.is(y.dtype, dtype);
    }
  });

  test(`rows, ${dtype}: gather, set and pick by index`, async (t) => {
    const x = counting(4, 3);
    const index = [2, -1, 0, 2];
    const gathered = build([4, 3], ([i, j]) => (index[i] < 0 ? 0 : at(x, [index[i], j])));
    t.deepEqual(await read(inside(x, dtype).gatherRows(inside({ shape: [4], values: index }, "i32"))), gathered);

    const target = zeros([5, 3], { backend: kernels, dtype });
    setRows(target, inside({ shape: [4], values: [4, -1, 0, 2] }, "i32"), inside(x, dtype));
    t.deepEqual(await values(target), [7, 8, 9, 0, 0, 0, 10, 11, 12, 0, 0, 0, 1, 2, 3]);

    const picked = inside(x, dtype).pick(inside({ shape: [4], values: [2, 0, 1, 1] }, "i32"));
    t.deepEqual(await read(picked), { shape: [4], values: [3, 4, 8, 11] });
  });
}

for (const dtype of ["f32", "f64", "bf16", "f16"] as const) {
  test(`scatterRows, ${dtype}: sums rows of one index, drops −1, leaves the rest zero`, async (t) => {
    const index = inside({ shape: [5], values: [1, 3, 1, -1, 1] }, "i32");
    const y = inside(counting(5, 2), dtype).scatterRows(index, 4);
    t.deepEqual(await read(y), { shape: [4, 2], values: [0, 0, 1 + 5 + 9, 2 + 6 + 10, 0, 0, 3, 4] });
  });
}

test("scatterRows, bf16, sums in f32: small addends are not lost one by one", async (t) => {
  const ones = tensor(new Float32Array(1000).fill(1), { backend: kernels, dtype: "bf16", shape: [1000, 1] });
  const index = tensor(new Int32Array(1000), { backend: kernels, dtype: "i32" });
  t.deepEqual(await values(ones.scatterRows(index, 1)), [1000]);
});

test("reshape is free, one extent may be inferred, and a leading slice is a view", (t) => {
  const x = inside(counting(4, 6));
  t.is(x.reshape([-1, 3]).storage, x.storage);
  t.deepEqual(x.reshape([-1, 3]).shape, [8, 3]);
  t.deepEqual(x.reshape([2, 2, -1]).shape, [2, 2, 6]);
  t.is(x.reshape([24]).offset, x.offset);
  const view = x.slice(0, 1, 3);
  t.is(view.storage, x.storage);
  t.is(view.offset, x.offset + 6);
  t.not(x.slice(1, 1, 3).storage, x.storage);
});

test("a view of a view of an operand keeps its place in every operation", async (t) => {
  const x = inside(counting(6, 2)).slice(0, 1).slice(0, 1, 4);
  t.deepEqual(await values(x), [5, 6, 7, 8, 9, 10]);
  t.deepEqual(await values(x.neg()), [-5, -6, -7, -8, -9, -10]);
  t.deepEqual(await values(x.transpose()), [5, 7, 9, 6, 8, 10]);
  t.deepEqual(await values(x.sum(0)), [21, 24]);
  t.deepEqual(await values(x.matmul(x, { transposeA: true })), [155, 176, 176, 200]);
});

test("a leading view sees what is written to its base, and the other way round", async (t) => {
  const x = tensor([1, 2, 3, 4], { backend: kernels });
  const view = x.slice(0, 1, 3);
  view.assign(tensor([8, 9], { backend: kernels }));
  t.deepEqual(await values(x), [1, 8, 9, 4]);
  x.assign(tensor([5, 6, 7, 8], { backend: kernels }));
  t.deepEqual(await values(view), [6, 7]);
});

test("embedding looks rows up; the padding row gets no gradient", async (t) => {
  const weight = tensor(
    [
      [1, 2],
      [3, 4],
      [5, 6],
    ],
    { backend: kernels },
  );
  weight.requiresGrad = true;
  const ids = tensor([2, 0, 1, 0], { backend: kernels, dtype: "i32" });
  const y = embedding(weight, ids, 1);
  t.deepEqual(await read(y), { shape: [4, 2], values: [5, 6, 1, 2, 3, 4, 1, 2] });
  y.sum().backward();
  t.deepEqual(await values(weight.grad!), [2, 2, 0, 0, 1, 1]);
});

test("operations on nothing give nothing", async (t) => {
  const none = zeros([0, 3], { backend: kernels });
  const index = zeros([0], { backend: kernels, dtype: "i32" });
  const shapes = {
    permute: none.transpose(),
    slice: none.slice(1, 0, 2),
    reshape: none.reshape([3, 0]),
    gather: zeros([4, 3], { backend: kernels }).gatherRows(index),
    pick: none.pick(index),
    concat: concat([none, none], 0),
    matmul: none.matmul(zeros([3, 2], { backend: kernels })),
    softmax: none.softmax(),
  };
  t.deepEqual(Object.fromEntries(Object.entries(shapes).map(([name, { shape }]) => [name, shape])), {
    permute: [3, 0],
    slice: [0, 2],
    reshape: [3, 0],
    gather: [0, 3],
    pick: [0],
    concat: [0, 3],
    matmul: [0, 2],
    softmax: [0, 3],
  });
  t.deepEqual(await read(none.scatterRows(index, 2)), { shape: [2, 3], values: [0, 0, 0, 0, 0, 0] });
  t.deepEqual(await read(none.sum(0)), { shape: [3], values: [0, 0, 0] });
  t.deepEqual(await read(none.sum()), { shape: [], values: [0] });
});
