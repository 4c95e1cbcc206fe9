import type { Blas } from "./blas.js";
import type { Floats } from "./gemm.js";

/**
 * y = x·wᵀ, or y + x·wᵀ where `add` is set: x [m, k], w [n, k], y [m, n], each from its first element on and without gaps.
 * A row has the same bits whatever other rows there are, as long as w is small.
 */
export type RowProduct = (m: number, n: number, k: number, x: Floats, w: Floats, y: Floats, add: boolean) => void;

/**
 * Elements of the largest w whose products are cut into blocks of rows, which takes about twice as long. Larger ones leave
 * the cache between two blocks, and need all processors.
 */
const LARGEST = 2 ** 18;

/** Products by a BLAS in blocks of the rows that it computes alike, the last one filled up with zeros. */
export function rowProduct({ gemm, rows }: Pick<Blas, "gemm" | "rows">): RowProduct {
  const multiply = (m: number, n: number, k: number, x: Floats, w: Floats, y: Floats, add: boolean) =>
    gemm(false, true, m, n, k, 1, x, k, w, k, add ? 1 : 0, y, n);
  if (rows === undefined) return multiply;
  return (m, n, k, x, w, y, add) => {
    if (n * k > LARGEST) {
      multiply(m, n, k, x, w, y, add);
      return;
    }
    const whole = m - (m % rows);
    for (let i = 0; i < whole; i += rows) multiply(rows, n, k, x.subarray(i * k), w, y.subarray(i * n), add);
    if (whole === m) return;
    const [xs, ys] = [zerosLike(x, rows * k), zerosLike(y, rows * n)];
    xs.set(x.subarray(whole * k, m * k));
    if (add) ys.set(y.subarray(whole * n, m * n));
    multiply(rows, n, k, xs, w, ys, add);
    y.set(ys.subarray(0, (m - whole) * n), whole * n);
  };
}

function zerosLike(x: Floats, size: number): Floats {
  return x instanceof Float64Array ? new Float64Array(size) : new Float32Array(size);
}
