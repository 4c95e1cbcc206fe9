import { record } from "../autograd.js";
import type { UnaryOp } from "../backend/backend.js";
import { alive, fresh, type Tensor } from "../tensor.js";

/** ∂loss/∂x from ∂loss/∂y, given x and y = op(x). An op without an entry has gradient zero everywhere. */
const gradients: Partial<Record<UnaryOp, (dy: Tensor, x: Tensor, y: Tensor) => Tensor>> = {
  neg: (dy) => dy.neg(),
  abs: (dy, x) => dy.mul(x.sign()),
  exp: (dy, _, y) => dy.mul(y),
  log: (dy, x) => dy.div(x),
  sqrt: (dy, _, y) => dy.div(y).mul(0.5),
  rsqrt: (dy, x, y) => dy.mul(y).div(x).mul(-0.5),
  square: (dy, x) => dy.mul(x).mul(2),
  reciprocal: (dy, _, y) => dy.mul(y.square()).neg(),
  sigmoid: (dy, _, y) => dy.mul(y.sub(y.square())),
  silu: (dy, x) => {
    const s = x.sigmoid();
    return dy.mul(s.add(x.mul(s).mul(s.neg().add(1))));
  },
  tanh: (dy, _, y) => dy.sub(dy.mul(y.square())),
  relu: (dy, _, y) => dy.mul(y.sign()),
  sin: (dy, x) => dy.mul(x.cos()),
  cos: (dy, x) => dy.mul(x.sin()).neg(),
};

/** Applies an elementwise function of one operand; its gradient follows from the table above. */
export function unary(op: UnaryOp, x: Tensor): Tensor {
  alive(op, x);
  const y = fresh(x.backend.unary(op, x), x.shape);
  const gradient = gradients[op];
  if (gradient) record(op, [x], y, [x, y], ([dy]) => [gradient(dy!, x.detach(), y.detach())]);
  return y;
}
