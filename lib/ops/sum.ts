import { record } from "../autograd.js";
import { around, normalizeAxis, type Shape, sameShape } from "../shape.js";
import { alive, fresh, type Tensor, zeros } from "../tensor.js";

/** Sum along an axis, or of everything (shape []). With `keepDim` the axis stays with extent 1. */
export function sum(x: Tensor, axis?: number, keepDim = false): Tensor {
  alive("sum", x);
  if (axis === undefined) return sum(x.reshape([-1]), 0).reshape(keepDim ? x.shape.map(() => 1) : []);
  const along = normalizeAxis("sum", axis, x.shape);
  const { outer, length, inner } = around(x.shape, along);
  const reduced = x.shape.with(along, 1);
  const y = fresh(x.backend.reduce("sum", x, outer, length, inner), keepDim ? reduced : x.shape.toSpliced(along, 1));
  record("sum", [x], y, [], ([dy]) => [broadcastTo(dy!.reshape(reduced), x.shape)]);
  return y;
}

/** Arithmetic mean along an axis, or of everything. */
export function mean(x: Tensor, axis?: number, keepDim = false): Tensor {
  const count = axis === undefined ? x.size : x.shape[normalizeAxis("mean", axis, x.shape)];
  return sum(x, axis, keepDim).div(count);
}

/** Repeats x to `shape` by NumPy's rule. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  return sameShape(x.shape, shape) ? x : zeros(shape, { backend: x.backend, dtype: x.dtype }).add(x);
}

/** The transpose of broadcasting: sums x over the axes along which `shape` was repeated. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  let result = x;
  while (result.rank > shape.length) result = sum(result, 0);
  shape.forEach((extent, i) => {
    if (extent === 1 && result.shape[i] !== 1) result = sum(result, i, true);
  });
  return result;
}
