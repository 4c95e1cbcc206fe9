import { record, wideGradient } from "../autograd.js";
import { fresh, type Tensor, tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";
import { checkRows, scatterRows } from "./rows.js";
import { where } from "./where.js";

/**
 * Rows of weight [vocabulary, d] for ids [tokens] (i32) → [tokens, d]. Row `paddingId`, if given, gets no gradient, as
 * with PyTorch's `padding_idx`.
 */
export function embedding(weight: Tensor, ids: Tensor, paddingId?: number): Tensor {
  checkRows("embedding", weight, ids);
  const y = fresh(weight.backend.gatherRows(weight, ids), [ids.size, weight.shape[1]]);
  record("embedding", [weight], y, [ids], ([dy]) => {
    const dropped = () => tensor(-1, { backend: ids.backend, dtype: "i32" });
    const index = paddingId === undefined ? ids : where(ids.equal(paddingId), dropped(), ids);
    const [rows] = weight.shape;
    const kernels = fusedKernels(weight, "scatterRowsWide");
    if (!kernels) return [scatterRows(dy!, index, rows)];
    return [wideGradient(weight, kernels.scatterRowsWide(dy!, index, rows, weight.grad))];
  });
  return y;
}
