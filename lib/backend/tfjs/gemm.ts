import { blockedGemm, type Floats, type Gemm } from "../cpu/gemm.js";
import type { Tf } from "./engines.js";
import type { Run } from "./operations.js";

/** From this many multiplications on, packing pays for itself. */
const PACKED_FROM = 150_000;

/**
 * The product of matrices on the host, for the kernels there: large ones, from `engineFrom` multiplications on, by the
 * engine, into which the operands are copied; small ones by a loop without any preparation.
 */
export function hybridGemm(tf: Tf, run: Run, engineFrom: number): Gemm {
  const engine = engineGemm(tf, run);
  return (transposeA, transposeB, m, n, k, ...rest) => {
    const work = m * n * k;
    const gemm = work >= engineFrom ? engine : work >= PACKED_FROM ? blockedGemm : smallGemm;
    gemm(transposeA, transposeB, m, n, k, ...rest);
  };
}

function engineGemm(tf: Tf, run: Run): Gemm {
  const matrix = (rows: number, columns: number, source: Floats, pitch: number, transposed: boolean) =>
    transposed
      ? tf.transpose(tf.tensor2d(dense(source, columns, rows, pitch), [columns, rows]))
      : tf.tensor2d(dense(source, rows, columns, pitch), [rows, columns]);
  return (transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) => {
    let product = c;
    run(() => {
      product = tf.matMul(matrix(m, k, a, lda, transposeA), matrix(k, n, b, ldb, transposeB)).dataSync<"float32">();
    });
    for (let i = 0, from = 0; i < m; i++) {
      for (let j = i * ldc; j < i * ldc + n; j++, from++) {
        c[j] = alpha * product[from] + (beta === 0 ? 0 : beta * c[j]);
      }
    }
  };
}

/** The elements of a matrix whose rows are `pitch` apart, next to each other. */
function dense(source: Floats, rows: number, columns: number, pitch: number): Float32Array {
  if (pitch === columns && source instanceof Float32Array) return source.subarray(0, rows * columns);
  const packed = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) packed.set(source.subarray(r * pitch, r * pitch + columns), r * columns);
  return packed;
}

/** Reads both operands where they lie, in tiles of two rows and four columns; what is past the end is not stored. */
export const smallGemm: Gemm = (transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) => {
  const aRow = transposeA ? 1 : lda;
  const aStep = transposeA ? lda : 1;
  const bColumn = transposeB ? ldb : 1;
  const bStep = transposeB ? 1 : ldb;
  for (let i = 0; i < m; i += 2) {
    const isPair = i + 1 < m;
    for (let j = 0; j < n; j += 4) {
      const columns = n - j;
      let x0 = i * aRow;
      let x1 = isPair ? x0 + aRow : x0;
      let y0 = j * bColumn;
      let y1 = y0 + (columns > 1 ? bColumn : 0);
      let y2 = y0 + (columns > 2 ? 2 * bColumn : 0);
      let y3 = y0 + (columns > 3 ? 3 * bColumn : 0);
      let c00 = 0;
      let c01 = 0;
      let c02 = 0;
      let c03 = 0;
      let c10 = 0;
      let c11 = 0;
      let c12 = 0;
      let c13 = 0;
      for (let p = 0; p < k; p++) {
        const a0 = a[x0];
        const a1 = a[x1];
        const b0 = b[y0];
        const b1 = b[y1];
        const b2 = b[y2];
        const b3 = b[y3];
        c00 += a0 * b0;
        c01 += a0 * b1;
        c02 += a0 * b2;
        c03 += a0 * b3;
        c10 += a1 * b0;
        c11 += a1 * b1;
        c12 += a1 * b2;
        c13 += a1 * b3;
        x0 += aStep;
        x1 += aStep;
        y0 += bStep;
        y1 += bStep;
        y2 += bStep;
        y3 += bStep;
      }
      const at = i * ldc + j;
      store(c, at, columns, alpha, beta, c00, c01, c02, c03);
      if (isPair) store(c, at + ldc, columns, alpha, beta, c10, c11, c12, c13);
    }
  }
};

function store(
  c: Floats,
  at: number,
  columns: number,
  alpha: number,
  beta: number,
  v0: number,
  v1: number,
  v2: number,
  v3: number,
): void {
  c[at] = alpha * v0 + (beta === 0 ? 0 : beta * c[at]);
  if (columns > 1) c[at + 1] = alpha * v1 + (beta === 0 ? 0 : beta * c[at + 1]);
  if (columns > 2) c[at + 2] = alpha * v2 + (beta === 0 ? 0 : beta * c[at + 2]);
  if (columns > 3) c[at + 3] = alpha * v3 + (beta === 0 ? 0 : beta * c[at + 3]);
}
