import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";
import { linear } from "./linear.js";
import { rmsNorm } from "./rmsNorm.js";
import { swiglu } from "./swiglu.js";

/**
 * The first half of an MLP where no gradient is asked for: swiglu(rmsNorm(x, norm, eps)·weightᵀ). x [rows, in], norm [in],
 * weight [2·width, in] = [gate | up] → [rows, width], the bits of the composed form; in one kernel for a few rows.
 */
export function normSwiglu(x: Tensor, norm: Tensor, eps: number, weight: Tensor): Tensor {
  alive("normSwiglu", x, norm, weight);
  const fits = x.rank === 2 && norm.size === x.shape[1] && weight.rank === 2 && weight.shape[1] === x.shape[1];
  const sameType = norm.dtype === x.dtype && weight.dtype === x.dtype;
  const y = fits && sameType ? fusedKernels(x, "normSwiglu")?.normSwiglu(x, norm, eps, weight) : undefined;
  return y ? fresh(y, [x.shape[0], weight.shape[0] / 2]) : normSwigluComposed(x, norm, eps, weight);
}

export function normSwigluComposed(x: Tensor, norm: Tensor, eps: number, weight: Tensor): Tensor {
  return swiglu(linear(rmsNorm(x, norm, eps), weight));
}
