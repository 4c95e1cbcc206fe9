import { record } from "../autograd.js";
import { fresh, type Tensor, tensor } from "../tensor.js";
import { gatherRows, scatterRows } from "./rows.js";
import { where } from "./where.js";

/**
 * Rows of weight [vocabulary, d] for ids [tokens] (i32) → [tokens, d]. Row `paddingId`, if given, gets no gradient, as
 * with PyTorch's `padding_idx`.
 */
export function embedding(weight: Tensor, ids: Tensor, paddingId?: number): Tensor {
  if (paddingId === undefined) return gatherRows(weight, ids);
  const y = fresh(weight.backend.gatherRows(weight, ids), [ids.size, weight.shape[1]]);
  record("embedding", [weight], y, [ids], ([dy]) => {
    const dropped = tensor(-1, { backend: ids.backend, dtype: "i32" });
    return [scatterRows(dy!, where(ids.equal(paddingId), dropped, ids), weight.shape[0])];
  });
  return y;
}
