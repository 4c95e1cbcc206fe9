import test from "ava";
import { blockedGemm } from "../../../lib/backend/cpu/gemm.js";
import { createCpu, linear, tensor } from "../../../lib/index.js";
import { at, build, inside, type Naive } from "../naive.js";
import { kernels, normals, relativeGap, values } from "../support.js";

function random(seed: number, ...shape: number[]): Naive {
  const numbers = normals(seed, 1000);
  let next = 0;
  return build(shape, () => Math.fround(numbers[next++]));
}

/** Swaps the last two axes where asked. */
function maybeTransposed(x: Naive, swap: boolean): Naive {
  const shape = [...x.shape.slice(0, -2), x.shape.at(-1)!, x.shape.at(-2)!];
  return swap ? build(shape, (index) => at(x, [...index.slice(0, -2), index.at(-1)!, index.at(-2)!])) : x;
}

const tolerances = { f64: 1e-14, f32: 1e-6, bf16: 2 ** -8, f16: 2 ** -11 } as const;

for (const [dtype, tolerance] of Object.entries(tolerances) as [keyof typeof tolerances, number][]) {
  test(`matmul, ${dtype}: every transpose and batch equals the sum over the inner axis`, async (t) => {
    for (const batch of [[], [3], [2, 2]]) {
      const [a, b] = [random(1, ...batch, 4, 7), random(2, ...batch, 7, 5)];
      for (const transposeA of [false, true]) {
        for (const transposeB of [false, true]) {
          const [x, y] = [inside(maybeTransposed(a, transposeA), dtype), inside(maybeTransposed(b, transposeB), dtype)];
          const rounded = {
            a: { ...a, values: await values(inside(a, dtype)) },
            b: { ...b, values: await values(inside(b, dtype)) },
          };
          const expected = build([...batch, 4, 5], (index) => {
            const [i, j] = index.slice(-2);
            const outer = index.slice(0, -2);
            return [0, 1, 2, 3, 4, 5, 6].reduce(
              (sum, p) => sum + at(rounded.a, [...outer, i, p]) * at(rounded.b, [...outer, p, j]),
              0,
            );
          });
          const product = x.matmul(y, { transposeA, transposeB });
          t.deepEqual(product.shape, expected.shape);
          const gap = relativeGap(await values(product), expected.values);
          t.true(gap <= tolerance, `batch [${batch}], ${transposeA} ${transposeB}: ${gap}`);
        }
      }
    }
  });
}

test("linear is x·Wᵀ + bias", async (t) => {
  const [x, w, bias] = [random(3, 4, 3), random(4, 5, 3), random(5, 5)];
  const plain = build([4, 5], ([i, j]) => [0, 1, 2].reduce((sum, p) => sum + at(x, [i, p]) * at(w, [j, p]), 0));
  const withBias = build([4, 5], ([i, j]) => at(plain, [i, j]) + at(bias, [j]));
  const [tx, tw, tb] = [x, w, bias].map((operand) => inside(operand));
  t.true(relativeGap(await values(linear(tx, tw)), plain.values) < 1e-6);
  t.true(relativeGap(await values(linear(tx, tw, { bias: tb })), withBias.values) < 1e-6);
});

const backends = {
  found: kernels,
  loop: createCpu({ blas: { gemm: blockedGemm, description: "", tried: [] }, poison: true }),
};
for (const [name, backend] of Object.entries(backends)) {
  test(`products with an empty axis are empty, or the bias alone (${name})`, async (t) => {
    const zero = (...shape: number[]) => tensor(new Float32Array(shape.reduce((a, b) => a * b)), { backend, shape });
    t.deepEqual(zero(0, 3).matmul(zero(3, 2)).shape, [0, 2]);
    t.deepEqual(zero(2, 3).matmul(zero(3, 0)).shape, [2, 0]);
    t.deepEqual(await values(zero(2, 0).matmul(zero(0, 2))), [0, 0, 0, 0]);
    const bias = tensor([1, 2], { backend });
    t.deepEqual(await values(linear(zero(2, 0), zero(2, 0), { bias })), [1, 2, 1, 2]);
    t.deepEqual(linear(zero(0, 3), zero(2, 3), { bias }).shape, [0, 2]);
  });
}
