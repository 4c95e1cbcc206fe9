import test from "ava";
import { blockedGemm, type Gemm } from "../../../../lib/backend/cpu/gemm.js";
import { rowProduct } from "../../../../lib/backend/cpu/rowProduct.js";
import { findBlas, randomStream } from "../../../../lib/index.js";

const normal = (size: number, seed: number) => {
  const random = randomStream(seed);
  return Float32Array.from({ length: size }, () => random.normal());
};

for (const { gemm, description } of [findBlas(), findBlas("none")]) {
  test(`${description}: a row has the same bits whatever other rows there are, and they are right`, (t) => {
    const product = rowProduct(gemm);
    for (const [n, k, most = 77] of [
      [5, 3],
      [15, 40],
      [16, 16],
      [23, 70],
      [61, 64],
      [300, 33],
      [64, 900],
      [520, 250],
      [256, 400, 1700],
    ]) {
      const [x, w] = [normal(most * k, n), normal(n * k, k)];
      const all = new Float32Array(most * n);
      product(most, n, k, x, w, all);
      const exact = new Float32Array(most * n);
      blockedGemm(false, true, most, n, k, 1, x, k, w, k, 0, exact, n);
      t.true(all.every((value, i) => Math.abs(value - exact[i]) < 1e-5 * k));
      for (const [first, count] of [
        [0, 1],
        [0, 7],
        [0, 12],
        [0, 24],
        [3, 8],
        [5, 30],
        [20, 57],
        [76, 1],
      ]) {
        const y = new Float32Array(count * n);
        product(count, n, k, x.slice(first * k), w, y);
        t.deepEqual(y, all.slice(first * n, (first + count) * n), `rows ${first} to ${first + count} of ${n} × ${k}`);
      }
    }
  });
}

test("a library that is never exact is used as it is", (t) => {
  const shapes: number[] = [];
  const rough: Gemm = (...args) => {
    blockedGemm(...args);
    const [m, n, c] = [args[2], args[3], args[11]];
    for (let i = 0; i < m * n; i++) c[i] *= 1 + i * 1e-6;
    shapes.push(m);
  };
  const product = rowProduct(rough);
  shapes.length = 0;
  product(30, 4, 4, normal(120, 1), normal(16, 2), new Float32Array(120));
  t.deepEqual(shapes, [30]);
});
