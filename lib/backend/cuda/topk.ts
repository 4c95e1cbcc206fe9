import { dtypes } from "../../dtype.js";
import type { ArrayRef, Storage } from "../backend.js";
import type { CudaContext } from "./context.js";
import { cType } from "./launch.js";

const THREADS = 1024;
/** Elements that a block looks through. */
const CHUNK = 8 * THREADS;
export const MOST_TOP_K = 1024;

/**
 * The k largest elements of each row of x [rows, columns] (a floating dtype), in descending order, the lower index first among
 * equals: values [rows, k] of x's dtype and indices [rows, k] (i32). NaN counts as largest. 1 ≤ k ≤ min(1024, columns).
 */
export function topK({ device, empty }: CudaContext, x: ArrayRef, k: number): { values: Storage; indices: Storage } {
  const [rows, columns] = x.shape;
  const { dtype } = x.storage;
  if (!(k >= 1 && k <= MOST_TOP_K && k <= columns)) {
    throw new Error(`topK: k is ${k}; it must be from 1 to ${Math.min(MOST_TOP_K, columns)}`);
  }
  const values = empty(dtype, rows * k, "topK");
  const indices = empty("i32", rows * k, "topK");
  const [source, ...targets] = [
    device.address(x),
    ...[values, indices].map((storage) => device.address({ storage, offset: 0, shape: [] })),
  ];
  const SORTED = 2 ** Math.ceil(Math.log2(k));

  /** Reduces `length` elements or keys of each row at `from` to k, by way of k for each part. */
  const step = (from: number, first: boolean, length: number): void => {
    const parts = Math.ceil(length / CHUNK);
    const defines = {
      DTYPE: cType("topK", dtype),
      ...{ FIRST: first ? 1 : 0, LAST: parts === 1 ? 1 : 0, SORTED },
    };
    const kernel = device.kernels.get("topk", "top_k", "pppppiiii", defines);
    const launch = (keys: number) =>
      device.launch(kernel, [from, keys, source, ...targets, length, parts, columns, k], {
        grid: [rows * parts],
        block: THREADS,
        bytes: rows * length * (first ? dtypes[dtype].bytes : 8),
      });
    if (parts === 1) launch(0);
    else {
      device.withScratch(8 * rows * parts * k, "topK scratch", (keys) => {
        launch(keys);
        step(keys, false, parts * k);
      });
    }
  };
  if (rows > 0) step(source, true, columns);
  return { values, indices };
}
