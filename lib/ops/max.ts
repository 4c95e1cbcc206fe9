import { record } from "../autograd.js";
import { around, normalizeAxis } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { broadcastTo } from "./sum.js";

/** Largest element along an axis. The gradient is shared evenly among equals. */
export function max(x: Tensor, axis: number, keepDim = false): Tensor {
  alive("max", x);
  const along = normalizeAxis("max", axis, x.shape);
  const { outer, length, inner } = around(x.shape, along);
  const reduced = x.shape.with(along, 1);
  const y = fresh(x.backend.reduce("max", x, outer, length, inner), keepDim ? reduced : x.shape.toSpliced(along, 1));
  record("max", [x], y, [x, y], ([dy]) => {
    const isMax = x.detach().equal(y.detach().reshape(reduced)).to(x.dtype);
    const share = dy!.reshape(reduced).div(isMax.sum(along, true));
    return [isMax.mul(broadcastTo(share, x.shape))];
  });
  return y;
}

/** Index (i32) of the largest element along an axis, the first of equals. No gradient. */
export function argmax(x: Tensor, axis: number): Tensor {
  alive("argmax", x);
  const along = normalizeAxis("argmax", axis, x.shape);
  const { outer, length, inner } = around(x.shape, along);
  return fresh(x.backend.reduce("argmax", x, outer, length, inner), x.shape.toSpliced(along, 1));
}
