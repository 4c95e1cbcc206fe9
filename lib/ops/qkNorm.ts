import { record } from "../autograd.js";
import type { HeadLayout } from "../backend/backend.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";
import { checkFused, joinHeads, splitHeads } from "./heads.js";
import { rmsNormComposed } from "./rmsNorm.js";

/**
 * RMS norm of every query and key head inside a fused projection, as in Qwen3; values pass unchanged.
 * x [tokens, (heads + 2·kvHeads)·headDim], q and k weights [headDim] → the shape of x.
 */
export function qkNorm(x: Tensor, q: Tensor, k: Tensor, layout: HeadLayout, eps = 1e-6): Tensor {
  alive("qkNorm", x, q, k);
  checkFused("qkNorm", x, layout);
  if (q.size !== layout.headDim || k.size !== layout.headDim || q.dtype !== x.dtype || k.dtype !== x.dtype) {
    throw new Error(
      `qkNorm: weights ${show(q.shape)} and ${show(k.shape)} for headDim ${layout.headDim} of ${x.dtype}`,
    );
  }
  const kernels = fusedKernels(x, "qkNorm", "qkNormBackward");
  if (!kernels) return qkNormComposed(x, q, k, layout, eps);
  const out = kernels.qkNorm(x, q, k, layout, eps);
  const y = fresh(out.y, x.shape);
  const rstd = fresh(out.rstd, [x.shape[0], layout.heads + layout.kvHeads]);
  record("qkNorm", [x, q, k], y, [x, q, k, rstd], ([dy]) => {
    const { dx, dq, dk } = kernels.qkNormBackward(dy!, x, q, k, rstd, layout);
    return [fresh(dx, x.shape), fresh(dq, q.shape), fresh(dk, k.shape)];
  });
  return y;
}

export function qkNormComposed(x: Tensor, q: Tensor, k: Tensor, layout: HeadLayout, eps = 1e-6): Tensor {
  const [queries, keys, values] = splitHeads(x, layout);
  return joinHeads([rmsNormComposed(queries, q, eps), rmsNormComposed(keys, k, eps), values]);
}
