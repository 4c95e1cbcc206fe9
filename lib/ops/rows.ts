import { record } from "../autograd.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";

/** Throws unless x is a live matrix and index i32 [n]. */
export function checkRows(op: string, x: Tensor, index: Tensor): void {
  alive(op, x, index);
  if (x.rank !== 2 || index.rank !== 1 || index.dtype !== "i32") {
    throw new Error(
      `${op}: x ${show(x.shape)} and index ${index.dtype} ${show(index.shape)}; it needs [rows, columns] and i32 [n]`,
    );
  }
}

/** Rows of x [rows, columns] by index [n] (i32) → [n, columns]; index −1 gives a row of zeros. An embedding look-up. */
export function gatherRows(x: Tensor, index: Tensor): Tensor {
  checkRows("gatherRows", x, index);
  const y = fresh(x.backend.gatherRows(x, index), [index.size, x.shape[1]]);
  record("gatherRows", [x], y, [index], ([dy]) => [scatterRows(dy!, index, x.shape[0])]);
  return y;
}

/** The transpose of `gatherRows`: adds row i of x [n, columns] to row index[i] of zeros [rows, columns], in order. */
export function scatterRows(x: Tensor, index: Tensor, rows: number): Tensor {
  checkRows("scatterRows", x, index);
  if (index.size !== x.shape[0]) throw new Error(`scatterRows: ${index.size} indices for ${x.shape[0]} rows`);
  const y = fresh(x.backend.scatterRows(x, index, rows), [rows, x.shape[1]]);
  record("scatterRows", [x], y, [index], ([dy]) => [gatherRows(dy!, index)]);
  return y;
}

/** In place: row index[i] of target [rows, columns] = row i of source [n, columns]. Not recorded. */
export function setRows(target: Tensor, index: Tensor, source: Tensor): void {
  checkRows("setRows", target, index);
  alive("setRows", source);
  if (source.shape[0] !== index.size || source.shape[1] !== target.shape[1] || source.dtype !== target.dtype) {
    throw new Error(
      `setRows: ${source.dtype} ${show(source.shape)} for ${index.size} rows of ${target.dtype} ${show(target.shape)}`,
    );
  }
  target.backend.setRows(target, index, source);
  target.storage.version++;
}
