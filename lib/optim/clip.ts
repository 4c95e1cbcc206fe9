import { arena, outsideArenas } from "../arena.js";
import { noGrad } from "../autograd.js";
import { fusedKernels } from "../ops/fused.js";
import { fresh } from "../tensor.js";
import { type ParameterSet, trainable } from "./parameters.js";

/**
 * L2 norm of all gradients together, summed in the set's order: on their device where it has `sumSquares`, else each tensor's
 * sum of squares is taken there (f32) and their sum on the host in f64. Parameters without a gradient count as zeros.
 */
export async function gradNorm(parameters: ParameterSet): Promise<number> {
  const gradients = [...trainable(parameters).values()].flatMap(({ grad }) => grad ?? []);
  const kernels = gradients.length > 0 ? fusedKernels(gradients[0], "sumSquares") : undefined;
  if (kernels) {
    using sum = outsideArenas(() => fresh(kernels.sumSquares(gradients), []));
    return Math.sqrt(await sum.item());
  }
  const sums = [...trainable(parameters).values()].map(({ grad }) => {
    if (!grad) return 0;
    const sum = arena(() => noGrad(() => grad.square().sum()));
    const value = sum.item();
    sum.dispose();
    return value;
  });
  const squares = await Promise.all(sums);
  return Math.sqrt(squares.reduce((total, square) => total + square, 0));
}

/**
 * The factor on gradients of norm `norm` that bounds it by `maxNorm`, as torch.nn.utils.clip_grad_norm_ has it:
 * maxNorm / (norm + 10⁻⁶), at most 1.
 * @throws where the norm is not finite: such a step has to be skipped.
 */
export function clipScale(norm: number, maxNorm: number): number {
  if (!Number.isFinite(norm)) throw new Error(`clipScale: the gradient norm is ${norm}; skip this step`);
  return Math.min(1, maxNorm / (norm + 1e-6));
}
