import { record } from "../autograd.js";
import { show, sizeOf } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels, wide } from "./fused.js";

/** x·rsqrt(mean(x²) + eps)·weight over the last axis: x [..., d], weight [d]. Zhang & Sennrich 2019. */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  alive("rmsNorm", x, weight);
  if (weight.rank !== 1 || weight.size !== x.shape.at(-1) || weight.dtype !== x.dtype) {
    throw new Error(`rmsNorm: weight ${weight.dtype} ${show(weight.shape)} for x ${x.dtype} ${show(x.shape)}`);
  }
  const kernels = fusedKernels(x, "rmsNorm", "rmsNormBackward");
  if (!kernels) return rmsNormComposed(x, weight, eps);
  const out = kernels.rmsNorm(x, weight, eps);
  const y = fresh(out.y, x.shape);
  const rstd = fresh(out.rstd, [sizeOf(x.shape.slice(0, -1))]);
  record("rmsNorm", [x, weight], y, [x, weight, rstd], ([dy], carry) => {
    const { dx, dWeight } = kernels.rmsNormBackward(dy!, x, weight, rstd, carry(0));
    return [fresh(dx, x.shape), fresh(dWeight, weight.shape)];
  });
  return y;
}

export function rmsNormComposed(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  const h = x.to(wide(x));
  return h.mul(h.square().mean(-1, true).add(eps).rsqrt()).to(x.dtype).mul(weight);
}
