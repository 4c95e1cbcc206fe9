import { record } from "../autograd.js";
import { broadcast } from "../shape.js";
import { alive, fresh, type Tensor, zeros } from "../tensor.js";
import { sumTo } from "./sum.js";

/** `a` where `condition` (bool) holds, else `b`, with NumPy broadcasting. */
export function where(condition: Tensor, a: Tensor, b: Tensor): Tensor {
  alive("where", condition, a, b);
  if (condition.dtype !== "bool") throw new Error(`where: the condition is ${condition.dtype}; compare to get bool`);
  if (a.dtype !== b.dtype) throw new Error(`where: ${a.dtype} and ${b.dtype} differ; cast one with to()`);
  const shape = broadcast("where", condition.shape, broadcast("where", a.shape, b.shape));
  const y = fresh(a.backend.where(condition, a, b, shape), shape);
  record("where", [a, b], y, [condition], ([dy]) => {
    const zero = zeros([], { backend: a.backend, dtype: a.dtype });
    return [sumTo(where(condition, dy!, zero), a.shape), sumTo(where(condition, zero, dy!), b.shape)];
  });
  return y;
}
