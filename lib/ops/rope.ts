import { record } from "../autograd.js";
import type { Rotation } from "../backend/backend.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor, tensor } from "../tensor.js";
import { concat } from "./concat.js";
import { fusedKernels, wide } from "./fused.js";
import { checkFused, joinHeads, splitHeads } from "./heads.js";

/**
 * Rotary position embedding of the query and key heads inside a fused projection; values pass unchanged.
 * x [tokens, (heads + 2·kvHeads)·headDim], positions [tokens] (i32) → the shape of x.
 *
 * Element j of a head's first half pairs with element j of its second half (Hugging Face's layout); the pair turns by
 * position·theta^(−2j/headDim). Su et al. 2021.
 */
export function rope(x: Tensor, positions: Tensor, rotation: Rotation): Tensor {
  alive("rope", x, positions);
  checkFused("rope", x, rotation);
  if (positions.rank !== 1 || positions.size !== x.shape[0] || positions.dtype !== "i32") {
    throw new Error(
      `rope: positions ${positions.dtype} ${show(positions.shape)} for ${x.shape[0]} tokens; it needs i32`,
    );
  }
  const kernels = fusedKernels(x, "rope");
  if (!kernels) return ropeComposed(x, positions, rotation);
  const y = fresh(kernels.rope(x, positions, rotation, 1), x.shape);
  record("rope", [x], y, [positions], ([dy]) => [fresh(kernels.rope(dy!, positions, rotation, -1), x.shape)]);
  return y;
}

export function ropeComposed(x: Tensor, positions: Tensor, rotation: Rotation): Tensor {
  const half = rotation.headDim / 2;
  const dtype = wide(x);
  const frequencies = Float64Array.from({ length: half }, (_, j) => rotation.theta ** (-j / half));
  const angles = positions
    .to(dtype)
    .reshape([-1, 1, 1])
    .mul(tensor(frequencies, { backend: x.backend, dtype }));
  const [cos, sin] = [angles.cos(), angles.sin()];
  const turn = (part: Tensor) => {
    const [a, b] = [part.slice(2, 0, half).to(dtype), part.slice(2, half).to(dtype)];
    return concat([a.mul(cos).sub(b.mul(sin)), b.mul(cos).add(a.mul(sin))], 2).to(x.dtype);
  };
  const [q, k, v] = splitHeads(x, rotation);
  return joinHeads([turn(q), turn(k), v]);
}
