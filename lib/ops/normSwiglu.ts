import { needsGrad } from "../autograd.js";
import { sameShape, show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";
import { linear } from "./linear.js";
import { rmsNorm } from "./rmsNorm.js";
import { swiglu } from "./swiglu.js";

/**
 * The first half of an MLP: swiglu(rmsNorm(x, norm, eps)·weightᵀ). x [rows, in], norm [in], weight [2·width, in] = [gate | up]
 * → [rows, width]. Where no gradient is asked for it may come from fewer kernels (one for a few rows), with the bits of the
 * composed form.
 */
export function normSwiglu(x: Tensor, norm: Tensor, eps: number, weight: Tensor): Tensor {
  alive("normSwiglu", x, norm, weight);
  const [, width] = x.shape;
  const fits = x.rank === 2 && sameShape(norm.shape, [width]) && weight.rank === 2 && weight.shape[1] === width;
  if (!fits || weight.shape[0] % 2 !== 0 || [norm, weight].some(({ dtype }) => dtype !== x.dtype)) {
    const said = Object.entries({ x, norm, weight }).map(([name, t]) => `${name} ${t.dtype} ${show(t.shape)}`);
    throw new Error(`normSwiglu: ${said.join(", ")}; it needs [rows, in], [in], [2·width, in] of one dtype`);
  }
  if (needsGrad(x, norm, weight)) return normSwigluComposed(x, norm, eps, weight);
  const y = fusedKernels(x, "normSwiglu")?.normSwiglu(x, norm, eps, weight);
  return y ? fresh(y, [x.shape[0], weight.shape[0] / 2]) : normSwigluComposed(x, norm, eps, weight);
}

export function normSwigluComposed(x: Tensor, norm: Tensor, eps: number, weight: Tensor): Tensor {
  return swiglu(linear(rmsNorm(x, norm, eps), weight));
}
