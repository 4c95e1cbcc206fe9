import { record } from "../autograd.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";

/** x·Wᵀ (+ bias): x [rows, in], weight [out, in] as PyTorch stores it, bias [out] → [rows, out]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  alive("linear", x, weight, ...(bias ? [bias] : []));
  const [rows, k] = x.shape;
  const [n, kOfWeight] = weight.shape;
  const fits = x.rank === 2 && weight.rank === 2 && k === kOfWeight && (!bias || (bias.rank === 1 && bias.size === n));
  if (!fits || x.dtype !== weight.dtype || (bias && bias.dtype !== x.dtype)) {
    throw new Error(
      `linear: x ${x.dtype} ${show(x.shape)}, weight ${weight.dtype} ${show(weight.shape)}` +
        `${bias ? `, bias ${bias.dtype} ${show(bias.shape)}` : ""}; it needs [rows, in], [out, in], [out] of one dtype`,
    );
  }
  const spec = { batch: 1, m: rows, n, k, transposeA: false, transposeB: true };
  const y = fresh(x.backend.matmul(x, weight, spec, bias), [rows, n]);
  record("linear", bias ? [x, weight, bias] : [x, weight], y, [x, weight], ([dy]) => [
    x.requiresGrad ? dy!.matmul(weight.detach()) : undefined,
    weight.requiresGrad ? dy!.matmul(x.detach(), { transposeA: true }) : undefined,
    bias?.requiresGrad ? dy!.sum(0) : undefined,
  ]);
  return y;
}
