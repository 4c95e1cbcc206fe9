import { record } from "../autograd.js";
import { sameShape, show, sizeOf } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";

export interface Transposes {
  /** Read `a` as if its last two axes were swapped. */
  readonly transposeA?: boolean;
  /** Read `b` as if its last two axes were swapped. */
  readonly transposeB?: boolean;
}

/** Matrix product over the last two axes: [..., m, k] · [..., k, n] → [..., m, n]. Leading axes must be equal. */
export function matmul(a: Tensor, b: Tensor, { transposeA = false, transposeB = false }: Transposes = {}): Tensor {
  alive("matmul", a, b);
  const spec = matmulSpec(a, b, transposeA, transposeB);
  const y = fresh(a.backend.matmul(a, b, spec), [...a.shape.slice(0, -2), spec.m, spec.n]);
  record("matmul", [a, b], y, [a, b], ([dy]) => {
    const da = () =>
      transposeA
        ? matmul(b.detach(), dy!, { transposeA: transposeB, transposeB: true })
        : matmul(dy!, b.detach(), { transposeB: !transposeB });
    const db = () =>
      transposeB
        ? matmul(dy!, a.detach(), { transposeA: true, transposeB: transposeA })
        : matmul(a.detach(), dy!, { transposeA: !transposeA });
    return [a.requiresGrad ? da() : undefined, b.requiresGrad ? db() : undefined];
  });
  return y;
}

function matmulSpec(a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean) {
  const [m, k] = transposeA ? [a.shape.at(-1), a.shape.at(-2)] : [a.shape.at(-2), a.shape.at(-1)];
  const [kOfB, n] = transposeB ? [b.shape.at(-1), b.shape.at(-2)] : [b.shape.at(-2), b.shape.at(-1)];
  const leading = a.shape.slice(0, -2);
  if (a.rank < 2 || b.rank < 2 || k !== kOfB || a.dtype !== b.dtype || !sameShape(leading, b.shape.slice(0, -2))) {
    const t = (flag: boolean) => (flag ? "ᵀ" : "");
    throw new Error(
      `matmul: ${a.dtype} ${show(a.shape)}${t(transposeA)} · ${b.dtype} ${show(b.shape)}${t(transposeB)} ` +
        "needs equal dtypes, equal leading axes and equal inner extents",
    );
  }
  return { batch: sizeOf(leading), m: m!, n: n!, k: k!, transposeA, transposeB };
}
