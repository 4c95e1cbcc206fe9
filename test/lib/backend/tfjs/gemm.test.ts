import test from "ava";
import { blockedGemm, type Gemm } from "../../../../lib/backend/cpu/gemm.js";
import { loadEngine } from "../../../../lib/backend/tfjs/engines.js";
import { hybridGemm } from "../../../../lib/backend/tfjs/gemm.js";
import { normals } from "../../support.js";
import { gap } from "./devices.js";

const { tf } = await loadEngine("wasm");
const products: readonly (readonly [name: string, gemm: Gemm])[] = [
  ["the loop for small matrices", hybridGemm(tf, tf.tidy, Number.POSITIVE_INFINITY)],
  ["the engine", hybridGemm(tf, tf.tidy, 0)],
];
const sizes = [
  [1, 1, 1],
  [1, 7, 5],
  [7, 1, 4],
  [4, 4, 4],
  [5, 3, 2],
  [6, 6, 1],
  [17, 9, 33],
  [31, 30, 16],
] as const;
const scalings = [
  [1, 0],
  [0.5, 1],
  [-2, 0.25],
] as const;

for (const [name, gemm] of products) {
  test.serial(`${name}: every transpose, pitch, scaling and odd size is the blocked loop's product`, (t) => {
    const tensors = tf.memory().numTensors;
    for (const [m, n, k] of sizes) {
      for (const [alpha, beta] of scalings) {
        for (const [transposeA, transposeB] of [
          [false, false],
          [false, true],
          [true, false],
          [true, true],
        ]) {
          for (const padding of [0, 3]) {
            const [lda, ldb, ldc] = [(transposeA ? m : k) + padding, (transposeB ? k : n) + padding, n + padding];
            const a = Float32Array.from(normals(1, (transposeA ? k : m) * lda));
            const b = Float32Array.from(normals(2, (transposeB ? n : k) * ldb));
            const [expected, actual] = [3, 3].map((seed) => Float32Array.from(normals(seed, m * ldc)));
            blockedGemm(transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, expected, ldc);
            gemm(transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, actual, ldc);
            // Gaps between rows are compared too: nothing may be written there.
            t.true(
              gap(Array.from(actual), Array.from(expected)) < 3e-6,
              `${[m, n, k]} ·${alpha} +${beta} ${transposeA} ${transposeB} ${padding}`,
            );
          }
        }
      }
    }
    t.is(tf.memory().numTensors, tensors);
  });

  test.serial(`${name}: beta 0 overwrites whatever was there`, (t) => {
    const c = Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY);
    gemm(false, false, 1, 2, 1, 1, Float32Array.of(2), 1, Float32Array.of(3, 4), 2, 0, c, 2);
    t.deepEqual(c, Float32Array.of(6, 8));
  });
}
