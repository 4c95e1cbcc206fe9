/** What floating-point kernels on the host compute with. */
export type Floats = Float32Array | Float64Array;

/**
 * C = alpha·op(A)·op(B) + beta·C, row-major, as in BLAS: op(A) [m, k], op(B) [k, n], C [m, n]; `lda`, `ldb`, `ldc` are
 * the distances between rows as stored. A matrix that is to be transposed is stored as [k, m] or [n, k].
 */
export type Gemm = (
  transposeA: boolean,
  transposeB: boolean,
  m: number,
  n: number,
  k: number,
  alpha: number,
  a: Floats,
  lda: number,
  b: Floats,
  ldb: number,
  beta: number,
  c: Floats,
  ldc: number,
) => void;

/** Multiplications from which a library's threads pay: about 2 ms of work for one core. */
export const THREADED_PRODUCT = 1e8;

const TILE = 4;

/**
 * The product without a library. Both operands are packed into strips of four rows or columns, so that the inner loop
 * reads memory in order and keeps a 4×4 tile of C in registers.
 */
export const blockedGemm: Gemm = (transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) => {
  const packedB = pack(b, n, k, transposeB ? ldb : 1, transposeB ? 1 : ldb);
  const stripA = a instanceof Float64Array ? new Float64Array(TILE * k) : new Float32Array(TILE * k);
  const tile = new Float64Array(TILE * TILE);
  for (let i = 0; i < m; i += TILE) {
    packStrip(stripA, 0, a, i, m, k, transposeA ? 1 : lda, transposeA ? lda : 1);
    for (let j = 0; j < n; j += TILE) {
      multiplyStrips(stripA, packedB, j * k, k, tile);
      const [rows, columns] = [Math.min(TILE, m - i), Math.min(TILE, n - j)];
      for (let r = 0; r < rows; r++) {
        const at = (i + r) * ldc + j;
        for (let s = 0; s < columns; s++) {
          c[at + s] = alpha * tile[r * TILE + s] + (beta === 0 ? 0 : beta * c[at + s]);
        }
      }
    }
  }
};

/** All of an operand with `count` rows (or columns) in strips of four: [count / 4, k, 4], padded with zeros. */
function pack(source: Floats, count: number, k: number, stride: number, step: number): Floats {
  const size = Math.ceil(count / TILE) * TILE * k;
  const packed = source instanceof Float64Array ? new Float64Array(size) : new Float32Array(size);
  for (let i = 0; i < count; i += TILE) packStrip(packed, i * k, source, i, count, k, stride, step);
  return packed;
}

function packStrip(
  target: Floats,
  at: number,
  source: Floats,
  first: number,
  count: number,
  k: number,
  stride: number,
  step: number,
): void {
  for (let r = 0; r < TILE; r++) {
    const inside = first + r < count;
    const from = (first + r) * stride;
    for (let p = 0; p < k; p++) target[at + p * TILE + r] = inside ? source[from + p * step] : 0;
  }
}

function multiplyStrips(a: Floats, b: Floats, bStart: number, k: number, tile: Float64Array): void {
  let c00 = 0,
    c01 = 0,
    c02 = 0,
    c03 = 0,
    c10 = 0,
    c11 = 0,
    c12 = 0,
    c13 = 0;
  let c20 = 0,
    c21 = 0,
    c22 = 0,
    c23 = 0,
    c30 = 0,
    c31 = 0,
    c32 = 0,
    c33 = 0;
  for (let p = 0, i = 0, j = bStart; p < k; p++, i += TILE, j += TILE) {
    const a0 = a[i],
      a1 = a[i + 1],
      a2 = a[i + 2],
      a3 = a[i + 3];
    const b0 = b[j],
      b1 = b[j + 1],
      b2 = b[j + 2],
      b3 = b[j + 3];
    c00 += a0 * b0;
    c01 += a0 * b1;
    c02 += a0 * b2;
    c03 += a0 * b3;
    c10 += a1 * b0;
    c11 += a1 * b1;
    c12 += a1 * b2;
    c13 += a1 * b3;
    c20 += a2 * b0;
    c21 += a2 * b1;
    c22 += a2 * b2;
    c23 += a2 * b3;
    c30 += a3 * b0;
    c31 += a3 * b1;
    c32 += a3 * b2;
    c33 += a3 * b3;
  }
  tile[0] = c00;
  tile[1] = c01;
  tile[2] = c02;
  tile[3] = c03;
  tile[4] = c10;
  tile[5] = c11;
  tile[6] = c12;
  tile[7] = c13;
  tile[8] = c20;
  tile[9] = c21;
  tile[10] = c22;
  tile[11] = c23;
  tile[12] = c30;
  tile[13] = c31;
  tile[14] = c32;
  tile[15] = c33;
}
