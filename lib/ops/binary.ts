import { record } from "../autograd.js";
import type { ArithmeticOp, BinaryOp } from "../backend/backend.js";
import { broadcast } from "../shape.js";
import { alive, fresh, full, type Tensor } from "../tensor.js";
import { sumTo } from "./sum.js";

type Gradient = (dy: Tensor, a: Tensor, b: Tensor, y: Tensor) => Tensor;

/** ∂loss/∂a and ∂loss/∂b from ∂loss/∂y. Where maximum or minimum ties, a takes the gradient. */
const gradients: Record<ArithmeticOp, readonly [Gradient, Gradient]> = {
  add: [(dy) => dy, (dy) => dy],
  sub: [(dy) => dy, (dy) => dy.neg()],
  mul: [(dy, _, b) => dy.mul(b), (dy, a) => dy.mul(a)],
  div: [(dy, _, b) => dy.div(b), (dy, _, b, y) => dy.mul(y).div(b).neg()],
  maximum: [(dy, a, b) => dy.mul(mask(a, "greaterEqual", b)), (dy, a, b) => dy.mul(mask(a, "less", b))],
  minimum: [(dy, a, b) => dy.mul(mask(a, "lessEqual", b)), (dy, a, b) => dy.mul(mask(a, "greater", b))],
  pow: [(dy, a, b) => dy.mul(b).mul(a.pow(b.sub(1))), (dy, a, _, y) => dy.mul(y).mul(a.log())],
};

function mask(a: Tensor, op: BinaryOp, b: Tensor): Tensor {
  return binary(op, a, b).to(a.dtype);
}

/** Applies an elementwise function of two operands with NumPy broadcasting; a number stands for a constant. */
export function binary(op: BinaryOp, a: Tensor, b: Tensor | number): Tensor {
  const other = typeof b === "number" ? full([], b, { backend: a.backend, dtype: a.dtype }) : b;
  alive(op, a, other);
  if (a.dtype !== other.dtype) throw new Error(`${op}: ${a.dtype} and ${other.dtype} differ; cast one with to()`);
  const shape = broadcast(op, a.shape, other.shape);
  const y = fresh(a.backend.binary(op, a, other, shape), shape);
  if (op in gradients) {
    const [da, db] = gradients[op as ArithmeticOp];
    const saved = op === "add" || op === "sub" ? [] : [a, other, y];
    record(op, [a, other], y, saved, ([dy]) => [
      a.requiresGrad ? sumTo(da(dy!, a.detach(), other.detach(), y.detach()), a.shape) : undefined,
      other.requiresGrad ? sumTo(db(dy!, a.detach(), other.detach(), y.detach()), other.shape) : undefined,
    ]);
  }
  return y;
}
