import { backward } from "./autograd.js";
import type { BinaryOp, UnaryOp } from "./backend/backend.js";
import type { DType } from "./dtype.js";
import { binary } from "./ops/binary.js";
import { cast } from "./ops/cast.js";
import { matmul, type Transposes } from "./ops/matmul.js";
import { argmax, max } from "./ops/max.js";
import { permute, transpose } from "./ops/permute.js";
import { pick } from "./ops/pick.js";
import { reshape } from "./ops/reshape.js";
import { gatherRows, scatterRows } from "./ops/rows.js";
import { slice } from "./ops/slice.js";
import { logSoftmax, softmax } from "./ops/softmax.js";
import { mean, sum } from "./ops/sum.js";
import { unary } from "./ops/unary.js";
import type { Shape } from "./shape.js";
import { Tensor } from "./tensor.js";

/** Operations as chained methods: `x.matmul(w).softmax()`. Each is the function of the same name in lib/ops. */
export interface TensorMethods
  extends Record<Exclude<UnaryOp, never>, () => Tensor>,
    Record<BinaryOp, (other: Tensor | number) => Tensor> {
  to(dtype: DType): Tensor;
  reshape(shape: Shape): Tensor;
  slice(axis: number, start: number, end?: number): Tensor;
  permute(axes: readonly number[]): Tensor;
  transpose(): Tensor;
  sum(axis?: number, keepDim?: boolean): Tensor;
  mean(axis?: number, keepDim?: boolean): Tensor;
  max(axis: number, keepDim?: boolean): Tensor;
  argmax(axis: number): Tensor;
  matmul(other: Tensor, transposes?: Transposes): Tensor;
  gatherRows(index: Tensor): Tensor;
  scatterRows(index: Tensor, rows: number): Tensor;
  pick(index: Tensor): Tensor;
  softmax(): Tensor;
  logSoftmax(): Tensor;
  /** Runs backward from this tensor; a scalar needs no gradient. */
  backward(grad?: Tensor): void;
}

declare module "./tensor.js" {
  interface Tensor extends TensorMethods {}
}

const unaryOps: readonly UnaryOp[] = [
  "neg",
  "abs",
  "sign",
  "exp",
  "log",
  "sqrt",
  "rsqrt",
  "square",
  "reciprocal",
  "sigmoid",
  "silu",
  "tanh",
  "relu",
  "sin",
  "cos",
  "logicalNot",
];
const binaryOps: readonly BinaryOp[] = [
  "add",
  "sub",
  "mul",
  "div",
  "maximum",
  "minimum",
  "pow",
  "equal",
  "notEqual",
  "less",
  "lessEqual",
  "greater",
  "greaterEqual",
];
const functions = {
  to: cast,
  reshape,
  slice,
  permute,
  transpose,
  sum,
  mean,
  max,
  argmax,
  matmul,
  gatherRows,
  scatterRows,
  pick,
  softmax,
  logSoftmax,
  backward: (x: Tensor, grad?: Tensor) => backward([x], [grad]),
};

type AnyMethod = (this: Tensor, ...args: never[]) => unknown;
const methods: Record<string, AnyMethod> = {};
for (const op of unaryOps)
  methods[op] = function () {
    return unary(op, this);
  };
for (const op of binaryOps)
  methods[op] = function (other: Tensor | number) {
    return binary(op, this, other);
  };
for (const [name, fn] of Object.entries(functions) as [string, (x: Tensor, ...rest: never[]) => unknown][]) {
  methods[name] = function (...rest) {
    return fn(this, ...rest);
  };
}
for (const [name, value] of Object.entries(methods)) {
  Object.defineProperty(Tensor.prototype, name, { value, writable: true, configurable: true });
}
