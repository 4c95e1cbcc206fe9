import { record } from "../autograd.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";

/** silu(gate)·up for a fused projection x [tokens, 2·width] = [gate | up] → [tokens, width]. Shazeer 2020. */
export function swiglu(x: Tensor): Tensor {
  alive("swiglu", x);
  if (x.rank !== 2 || x.shape[1] % 2 !== 0) throw new Error(`swiglu: x ${show(x.shape)} is not [tokens, 2·width]`);
  const kernels = fusedKernels(x, "swiglu", "swigluBackward");
  if (!kernels) return swigluComposed(x);
  const y = fresh(kernels.swiglu(x), [x.shape[0], x.shape[1] / 2]);
  record("swiglu", [x], y, [x], ([dy]) => [fresh(kernels.swigluBackward(dy!, x), x.shape)]);
  return y;
}

export function swigluComposed(x: Tensor): Tensor {
  const width = x.shape[1] / 2;
  return x.slice(1, 0, width).silu().mul(x.slice(1, width));
}
