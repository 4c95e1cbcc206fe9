import { needsGrad } from "../autograd.js";
import { fresh, type Tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";
import { linear } from "./linear.js";
import { swiglu } from "./swiglu.js";

/** swiglu(x·weightᵀ): x [rows, in], weight [2·width, in] = [gate | up] → [rows, width]; in one kernel where no gradient is asked for. */
export function linearSwiglu(x: Tensor, weight: Tensor): Tensor {
  const kernels = fusedKernels(x, "linearSwiglu");
  const fits = x.rank === 2 && weight.rank === 2 && x.shape[1] === weight.shape[1] && weight.shape[0] % 2 === 0;
  if (!kernels || !fits || x.dtype !== weight.dtype || needsGrad(x, weight)) return swiglu(linear(x, weight));
  return fresh(kernels.linearSwiglu(x, weight), [x.shape[0], weight.shape[0] / 2]);
}
