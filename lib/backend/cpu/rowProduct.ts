import { type Floats, type Gemm, THREADED_PRODUCT } from "./gemm.js";

/**
 * y = x·wᵀ: x [m, k], w [n, k], y [m, n], each from its first element on and without gaps. A row has the same bits whatever
 * other rows there are, as long as w is small.
 */
export type RowProduct = (m: number, n: number, k: number, x: Floats, w: Floats, y: Floats) => void;

/** Elements of the largest w that this is done for: larger ones leave the cache between two parts, and need all processors. */
const LARGEST = 2 ** 17;

/** A way to multiply a number of rows that is a multiple of `rows`. */
interface Scheme {
  readonly rows: number;
  multiply(gemm: Gemm): RowProduct;
}

/**
 * OpenBLAS's kernel for AVX2 computes twelve rows at a time, and eight columns of them; rows 0 to 5 of the first eight
 * columns and rows 6 to 11 of the last eight are summed in another order than the rest, unless there are no other columns.
 * So the first and the last eight are computed once more, by themselves.
 */
const dozens: Scheme = {
  rows: 12,
  multiply: (gemm) => (m, n, k, x, w, y) => {
    const part = (from: number, row: number, count: number, column: number, columns: number) =>
      gemm(
        false,
        true,
        count,
        columns,
        k,
        1,
        x.subarray(row * k),
        k,
        w.subarray(column * k),
        k,
        0,
        y.subarray(from),
        n,
      );
    // No more rows and columns than the library takes in one piece, on one processor.
    const most = 12 * Math.min(256, Math.floor((THREADED_PRODUCT - 1) / (12 * Math.min(256, n) * k)));
    for (let row = 0; row < m; row += most) {
      const count = Math.min(most, m - row);
      for (let column = 0; column < n; column += 256) {
        const columns = Math.min(256, n - column);
        const last = columns < 16 ? 0 : Math.floor(columns / 8) * 8 - 8;
        if (last > 8) part(row * n + column, row, count, column, columns);
        if (last > 0) part(row * n + column, row, count, column, 8);
        part(row * n + column + last, row, count, column + last, columns - last);
      }
    }
  },
};

/** Eight rows at a time: the same product every time. */
const eights: Scheme = {
  rows: 8,
  multiply: (gemm) => (m, n, k, x, w, y) => {
    for (let row = 0; row < m; row += 8) {
      gemm(false, true, 8, n, k, 1, x.subarray(row * k), k, w, k, 0, y.subarray(row * n), n);
    }
  },
};

/** The product in one piece. */
export function wholeProduct(gemm: Gemm): RowProduct {
  return (m, n, k, x, w, y) => gemm(false, true, m, n, k, 1, x, k, w, k, 0, y, n);
}

const found = new WeakMap<Gemm, RowProduct>();

/** The product by a library's `gemm` in the first of the ways that are found to give a row the same bits everywhere. */
export function rowProduct(gemm: Gemm): RowProduct {
  const known = found.get(gemm);
  if (known) return known;
  const whole = wholeProduct(gemm);
  const exact = [dozens, eights].map((scheme) => filledUp(scheme, gemm)).find(isExact) ?? whole;
  const product: RowProduct = (m, n, k, x, w, y) => (n * k > LARGEST ? whole : exact)(m, n, k, x, w, y);
  found.set(gemm, product);
  return product;
}

/** Any number of rows: those that are left are filled up with zeros. */
function filledUp({ rows, multiply }: Scheme, gemm: Gemm): RowProduct {
  const product = multiply(gemm);
  return (m, n, k, x, w, y) => {
    const whole = m - (m % rows);
    if (whole > 0) product(whole, n, k, x, w, y);
    if (whole === m) return;
    const like = (size: number) => (x instanceof Float64Array ? new Float64Array(size) : new Float32Array(size));
    const [xs, ys] = [like(rows * k), like(rows * n)];
    xs.set(x.subarray(whole * k, m * k));
    product(rows, n, k, xs, w, ys);
    y.set(ys.subarray(0, (m - whole) * n), whole * n);
  };
}

/** Whether equal rows have equal results, in whatever number they come. */
function isExact(product: RowProduct): boolean {
  const noise = (size: number, seed: number) => Float32Array.from({ length: size }, (_, i) => Math.sin((i + 1) * seed));
  return [8, 20, 97, 320].every((n) =>
    [40, 400].every((k) => {
      const [w, row] = [noise(n * k, 12.9898), noise(k, 78.233)];
      const [first, ...others] = [1, 5, 12, 31].map((m) => {
        const [x, y] = [new Float32Array(m * k), new Float32Array(m * n)];
        for (let i = 0; i < m; i++) x.set(row, i * k);
        product(m, n, k, x, w, y);
        return y;
      });
      return others.every((y) => y.every((value, i) => value === first[i % n]));
    }),
  );
}
