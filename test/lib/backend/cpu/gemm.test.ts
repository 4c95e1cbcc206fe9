import test from "ava";
import { findBlas } from "../../../../lib/backend/cpu/blas.js";
import { blockedGemm, type Floats, type Gemm } from "../../../../lib/backend/cpu/gemm.js";
import { InputError, randomStream } from "../../../../lib/index.js";
import { relativeGap } from "../../support.js";

const found = findBlas();
const products: [name: string, gemm: Gemm][] = [["blocked loop", blockedGemm]];
if (found.library) products.push([found.library, found.gemm]);

const naive: Gemm = (transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) => {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < k; p++) {
        sum += a[transposeA ? p * lda + i : i * lda + p] * b[transposeB ? j * ldb + p : p * ldb + j];
      }
      c[i * ldc + j] = alpha * sum + (beta === 0 ? 0 : beta * c[i * ldc + j]);
    }
  }
};

const sizes = [
  [1, 1, 1],
  [1, 7, 5],
  [7, 1, 4],
  [4, 4, 4],
  [5, 3, 2],
  [17, 9, 33],
  [64, 31, 65],
] as const;
const scalings = [
  [1, 0],
  [0.5, 1],
  [-2, 0.25],
] as const;
const floats = [
  ["f32", (values: number[]): Floats => Float32Array.from(values), 2e-6],
  ["f64", (values: number[]): Floats => Float64Array.from(values), 1e-14],
] as const;

for (const [name, gemm] of products) {
  for (const [dtype, floatsOf, tolerance] of floats) {
    test(`${name}, ${dtype}: every transpose, pitch, scaling and odd size equals the naive product`, (t) => {
      const random = randomStream(1);
      const filled = (length: number) => floatsOf(Array.from({ length }, () => random.normal()));
      for (const [m, n, k] of sizes) {
        for (const [alpha, beta] of scalings) {
          for (const flags of [0, 1, 2, 3]) {
            for (const gap of [0, 3]) {
              const [transposeA, transposeB] = [(flags & 1) > 0, (flags & 2) > 0];
              const [lda, ldb, ldc] = [(transposeA ? m : k) + gap, (transposeB ? k : n) + gap, n + gap];
              const [a, b] = [filled((transposeA ? k : m) * lda), filled((transposeB ? n : k) * ldb)];
              const expected = filled(m * ldc);
              const actual = expected.slice();
              naive(transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, expected, ldc);
              gemm(transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, actual, ldc);
              // Gaps between rows are compared too: nothing may be written there.
              const difference = relativeGap(actual, expected);
              t.true(
                difference <= tolerance,
                `${[m, n, k]} ·${alpha} +${beta} flags ${flags} gap ${gap}: ${difference}`,
              );
            }
          }
        }
      }
    });

    test(`${name}, ${dtype}: beta 0 overwrites whatever was there`, (t) => {
      const c = floatsOf([Number.NaN, Number.POSITIVE_INFINITY]);
      gemm(false, false, 1, 2, 1, 1, floatsOf([2]), 1, floatsOf([3, 4]), 2, 0, c, 2);
      t.deepEqual(c, floatsOf([6, 8]));
    });
  }
}

test("a library that is named and cannot be used is refused; none is the loop of our own", (t) => {
  t.throws(() => findBlas("libnowhere.so"), {
    instanceOf: InputError,
    message: /ITPO_BLAS=libnowhere\.so: it cannot be opened/,
  });
  t.throws(() => findBlas("libc.so.6"), { instanceOf: InputError, message: /no cblas_sgemm/ });
  t.is(findBlas("none").gemm, blockedGemm);
});
