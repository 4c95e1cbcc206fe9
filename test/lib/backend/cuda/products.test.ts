import type { ExecutionContext } from "ava";
import { Arena, type DType, linear, type Shape, type Tensor, tensor } from "../../../../lib/index.js";
import { sizeOf } from "../../../../lib/shape.js";
import { largest, normals, values } from "../../support.js";
import { cpu, cudaTest, openCuda } from "./support.js";

const floats = ["f32", "bf16", "f16"] as const;
/** One rounding to the nearest, relative to a value. */
const unitRoundoff = { f32: 2 ** -24, bf16: 2 ** -8, f16: 2 ** -11 };

/** f64 values of a product's operands, rounded to `dtype` first. */
async function operand(dtype: DType, shape: Shape, seed: number): Promise<Tensor> {
  const rounded = await tensor(normals(seed, sizeOf(shape)), { backend: cpu, dtype, shape }).data();
  return tensor(rounded, { backend: cpu, dtype: "f64", shape });
}

const products: readonly (readonly [m: number, n: number, k: number])[] = [
  [1, 1, 1],
  [2, 3, 4],
  [5, 7, 9],
  [1, 33, 20],
  [8, 16, 64],
  [130, 70, 40],
  [64, 128, 256],
  [257, 129, 513],
  [3, 4, 0],
  [0, 4, 3],
];

for (const dtype of floats) {
  cudaTest(
    `matrix products, ${dtype}: all transposes, batches, bias and addend; the sum is rounded once`,
    async (t) => {
      const cuda = await openCuda();
      const unit = unitRoundoff[dtype];
      for (const [m, n, k] of products) {
        for (const [transposeA, transposeB] of [
          [false, false],
          [false, true],
          [true, false],
          [true, true],
        ]) {
          const shapes = [
            [2, ...(transposeA ? [k, m] : [m, k])],
            [2, ...(transposeB ? [n, k] : [k, n])],
          ];
          const [a, b] = [await operand(dtype, shapes[0], 11), await operand(dtype, shapes[1], 12)];
          const on = async (x: Tensor) => tensor(await x.data(), { backend: cuda, dtype, shape: x.shape });
          const exact = await a.matmul(b, { transposeA, transposeB }).data();
          const result = (await on(a)).matmul(await on(b), { transposeA, transposeB });
          expectRounded(t, await result.data(), exact, unit, k, `${m}·${n}·${k} ${transposeA} ${transposeB}`);
        }
        if (k === 0) continue;
        const [x, w] = [await operand(dtype, [m, k], 13), await operand(dtype, [n, k], 14)];
        const [bias, addend] = [await operand(dtype, [n], 15), await operand(dtype, [m, n], 16)];
        const on = async (y: Tensor) => tensor(await y.data(), { backend: cuda, dtype, shape: y.shape });
        for (const terms of [{ bias }, { residual: addend }, { bias, residual: addend }]) {
          const exact = await linear(x, w, terms).data();
          const placed = Object.fromEntries(
            await Promise.all(Object.entries(terms).map(async ([name, y]) => [name, await on(y)] as const)),
          );
          const result = linear(await on(x), await on(w), placed);
          expectRounded(t, await result.data(), exact, unit, k, `${m}·${n}·${k} with ${Object.keys(terms)}`);
        }
      }
    },
  );
}

/** At most one rounding to the result's type, and f32 roundings inside the sum. */
function expectRounded(
  t: ExecutionContext,
  actual: ArrayLike<number>,
  exact: ArrayLike<number>,
  unit: number,
  k: number,
  label: string,
): void {
  t.is(actual.length, exact.length, label);
  const inside = 2 ** -23 * (4 + Math.sqrt(k)) * Math.max(1, largest(exact));
  let worst = 0;
  for (let i = 0; i < exact.length; i++) {
    const error = Math.abs(actual[i] - exact[i]) / (unit * Math.abs(exact[i]) * 1.001 + inside);
    worst = Math.max(worst, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
  }
  t.true(worst <= 1, `${label}: ${worst} times what one rounding allows`);
}

cudaTest("matrix products, bf16: a row has the same bits however many rows there are", async (t) => {
  const cuda = await openCuda();
  const noise = normals(1, 1_048_573);
  for (const [n, k] of [
    [896, 896],
    [1152, 896],
    [896, 4864],
    [2560, 2048],
    // Left to itself, cuBLASLt splits the inner axis of this one.
    [2048, 11_008],
  ]) {
    using arena = new Arena();
    const make = (seed: number, shape: Shape) => {
      const data = Float32Array.from({ length: sizeOf(shape) }, (_, i) => noise[(seed * 7919 + i) % noise.length]);
      return tensor(data, { backend: cuda, dtype: "bf16", shape });
    };
    const [x, w] = arena.run(() => [make(1, [512, k]), make(2, [n, k])]);
    const whole = await values(arena.run(() => linear(x, w)));
    for (const rows of [1, 8, 64, 129, 256]) {
      const part = await values(arena.run(() => linear(x.slice(0, 0, rows), w)));
      t.is(
        part.findIndex((value, i) => value !== whole[i]),
        -1,
        `${rows} of 512 rows, ${n} × ${k}`,
      );
    }
  }
});
