import { noGrad, record, wideGradient } from "../autograd.js";
import type { MatmulSpec } from "../backend/backend.js";
import { sameShape, show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels, wide } from "./fused.js";

/** What `linear` adds to the product before it is rounded. */
export interface LinearTerms {
  /** [out] */
  readonly bias?: Tensor;
  /** [rows, out]: a residual stream that goes past. */
  readonly residual?: Tensor;
}

/** x·Wᵀ (+ bias) (+ residual): x [rows, in], weight [out, in] as PyTorch stores it → [rows, out]. */
export function linear(x: Tensor, weight: Tensor, { bias, residual }: LinearTerms = {}): Tensor {
  const terms = [bias, residual].filter((term) => term !== undefined);
  alive("linear", x, weight, ...terms);
  const [rows, k] = x.shape;
  const [n, kOfWeight] = weight.shape;
  const fits =
    x.rank === 2 &&
    weight.rank === 2 &&
    k === kOfWeight &&
    (!bias || sameShape(bias.shape, [n])) &&
    (!residual || sameShape(residual.shape, [rows, n]));
  if (!fits || [weight, ...terms].some(({ dtype }) => dtype !== x.dtype)) {
    const said = { x, weight, bias, residual };
    const list = Object.entries(said).flatMap(([name, t]) => (t ? [`${name} ${t.dtype} ${show(t.shape)}`] : []));
    throw new Error(
      `linear: ${list.join(", ")}; it needs [rows, in], [out, in], bias [out], residual [rows, out] of one dtype`,
    );
  }
  const spec = { batch: 1, m: rows, n, k, transposeA: false, transposeB: true };
  const y = fresh(x.backend.matmul(x, weight, spec, bias, residual), [rows, n]);
  record("linear", [x, weight, ...terms], y, [x, weight], ([dy]) => [
    x.requiresGrad ? dy!.matmul(weight.detach()) : undefined,
    weight.requiresGrad ? weightGradient(dy!, x.detach(), weight) : undefined,
    ...(bias ? [bias.requiresGrad ? dy!.sum(0) : undefined] : []),
    ...(residual ? [dy] : []),
  ]);
  return y;
}

/** dyᵀ·x, in f32 and into the gradient that is there where the backend can. */
function weightGradient(dy: Tensor, x: Tensor, weight: Tensor): Tensor {
  const kernels = fusedKernels(x, "matmulWide");
  if (!kernels) return dy.matmul(x, { transposeA: true });
  const [n, k] = weight.shape;
  const spec: MatmulSpec = { batch: 1, m: n, n: k, k: dy.shape[0], transposeA: true, transposeB: false };
  return wideGradient(weight, kernels.matmulWide(dy, x, spec, weight.grad));
}

/** x·Wᵀ in f32 (f64 for f64), not rounded to x's dtype: logits to sample from. No gradient. */
export function linearWide(x: Tensor, weight: Tensor): Tensor {
  const kernels = fusedKernels(x, "matmulWide");
  if (!kernels || x.dtype === wide(x)) return noGrad(() => linear(x.to(wide(x)), weight.to(wide(x))));
  alive("linearWide", x, weight);
  const [[m, k], [n]] = [x.shape, weight.shape];
  if (x.rank !== 2 || !sameShape(weight.shape, [n, k]) || weight.dtype !== x.dtype) {
    throw new Error(`linearWide: x ${x.dtype} ${show(x.shape)}, weight ${weight.dtype} ${show(weight.shape)}`);
  }
  const spec: MatmulSpec = { batch: 1, m, n, k, transposeA: false, transposeB: true };
  return fresh(kernels.matmulWide(x, weight, spec), [m, n]);
}
