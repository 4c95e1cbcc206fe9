import { record } from "../autograd.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";

/** One element a row: x [n, columns] at index [n] (i32) → [n]. PyTorch's `gather` along the last axis. */
export function pick(x: Tensor, index: Tensor): Tensor {
  alive("pick", x, index);
  if (x.rank !== 2 || index.rank !== 1 || index.size !== x.shape[0] || index.dtype !== "i32") {
    throw new Error(
      `pick: x ${show(x.shape)} and index ${index.dtype} ${show(index.shape)}; it needs [n, columns] and i32 [n]`,
    );
  }
  const columns = x.shape[1];
  const y = fresh(x.backend.pick(x, index), [index.size]);
  record("pick", [x], y, [index], ([dy]) => [fresh(x.backend.unpick(dy!, index, columns), x.shape)]);
  return y;
}
