import type { TypedArray } from "../../dtype.js";
import { broadcastStrides, type Shape, sizeOf } from "../../shape.js";
import type { BinaryOp, ReduceOp, UnaryOp } from "../backend.js";

/*
 * Elementwise loops are generated from these expressions: a loop that calls a function per element is several times
 * slower, because it serves every operation at once and cannot be inlined.
 */

const unaryExpressions: Record<UnaryOp, string> = {
  neg: "-x",
  abs: "Math.abs(x)",
  sign: "Math.sign(x)",
  exp: "Math.exp(x)",
  log: "Math.log(x)",
  sqrt: "Math.sqrt(x)",
  rsqrt: "1 / Math.sqrt(x)",
  square: "x * x",
  reciprocal: "1 / x",
  sigmoid: "1 / (1 + Math.exp(-x))",
  silu: "x / (1 + Math.exp(-x))",
  tanh: "Math.tanh(x)",
  relu: "x <= 0 ? 0 : x",
  sin: "Math.sin(x)",
  cos: "Math.cos(x)",
  logicalNot: "x === 0 ? 1 : 0",
};

const binaryExpressions: Record<BinaryOp, string> = {
  add: "a + b",
  sub: "a - b",
  mul: "a * b",
  div: "a / b",
  maximum: "a >= b || a !== a ? a : b",
  minimum: "a <= b || a !== a ? a : b",
  pow: "Math.pow(a, b)",
  equal: "a === b ? 1 : 0",
  notEqual: "a !== b ? 1 : 0",
  less: "a < b ? 1 : 0",
  lessEqual: "a <= b ? 1 : 0",
  greater: "a > b ? 1 : 0",
  greaterEqual: "a >= b ? 1 : 0",
};

type Loop = (...args: (TypedArray | number)[]) => void;

const loops = new Map<string, Loop>();

/** Compiles a loop once; `key` must be unique to `parameters` and `body`. */
function loop(key: string, parameters: string, body: string): Loop {
  let compiled = loops.get(key);
  if (!compiled) loops.set(key, (compiled = new Function(...parameters.split(" "), body) as Loop));
  return compiled;
}

export function unaryLoop(op: UnaryOp, x: TypedArray, y: TypedArray): void {
  loop(
    `${op} ${x.constructor.name}`,
    "xs ys n",
    `for (let i = 0; i < n; i++) { const x = xs[i]; ys[i] = ${unaryExpressions[op]}; }`,
  )(x, y, y.length);
}

export function binaryLoop(
  op: BinaryOp,
  a: TypedArray,
  aShape: Shape,
  b: TypedArray,
  bShape: Shape,
  y: TypedArray,
  shape: Shape,
): void {
  const expression = binaryExpressions[op];
  overRows(shape, [aShape, bShape], (row, length, [aStart, bStart], [aStep, bStep]) => {
    loop(
      `${op} ${a.constructor.name} ${aStep} ${bStep}`,
      "as bs ys n i j k",
      aStep === 1 && bStep === 1
        ? `for (let t = 0; t < n; t++) { const a = as[i + t], b = bs[j + t]; ys[k + t] = ${expression}; }`
        : `for (let t = 0; t < n; t++) { const a = as[i + t * ${aStep}], b = bs[j + t * ${bStep}]; ys[k + t] = ${expression}; }`,
    )(a, b, y, length, aStart, bStart, row);
  });
}

/** target += source, of equal length. */
export function addTo(target: TypedArray, source: TypedArray): void {
  const { length } = target;
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    target[i] += source[i];
    target[i + 1] += source[i + 1];
    target[i + 2] += source[i + 2];
    target[i + 3] += source[i + 3];
  }
  for (; i < length; i++) target[i] += source[i];
}

export function whereLoop(
  condition: TypedArray,
  a: TypedArray,
  b: TypedArray,
  shapes: readonly [Shape, Shape, Shape],
  y: TypedArray,
  shape: Shape,
): void {
  overRows(shape, shapes, (row, length, [c, i, j], [cStep, aStep, bStep]) => {
    for (let t = 0; t < length; t++) y[row + t] = condition[c + t * cStep] ? a[i + t * aStep] : b[j + t * bStep];
  });
}

/**
 * Walks a broadcast result in rows that every operand crosses with one step (0 or 1): calls `visit` with the row's start
 * in the result, its length, and each operand's start and step.
 */
function overRows(
  shape: Shape,
  operands: readonly Shape[],
  visit: (row: number, length: number, starts: readonly number[], steps: readonly number[]) => void,
): void {
  if (sizeOf(shape) === 0) return;
  const strides = operands.map((operand) => broadcastStrides(operand, shape));
  // Trailing axes merge into one row while every operand either repeats along all of them or runs through them.
  let axis = shape.length;
  let length = 1;
  let steps: readonly number[] = operands.map(() => 0);
  while (axis > 0) {
    const next = strides.map((s) => s[axis - 1]);
    const extent = shape[axis - 1];
    if (extent > 1) {
      const merges = length === 1 || next.every((stride, i) => (steps[i] === 0 ? stride === 0 : stride === length));
      if (!merges) break;
      if (length === 1) steps = next.map((stride) => (stride === 0 ? 0 : 1));
      length *= extent;
    }
    axis--;
  }
  const outer = shape.slice(0, axis);
  const index = new Array<number>(axis).fill(0);
  const starts = operands.map(() => 0);
  const rows = sizeOf(outer);
  for (let r = 0; r < rows; r++) {
    visit(r * length, length, starts, steps);
    for (let d = axis - 1; d >= 0; d--) {
      index[d]++;
      for (let i = 0; i < starts.length; i++) starts[i] += strides[i][d];
      if (index[d] < outer[d]) break;
      for (let i = 0; i < starts.length; i++) starts[i] -= strides[i][d] * outer[d];
      index[d] = 0;
    }
  }
}

export function reduceLoop(
  op: ReduceOp,
  x: TypedArray,
  y: TypedArray,
  outer: number,
  length: number,
  inner: number,
): void {
  if (op === "sum" && inner > 1) {
    sumRows(x, y, outer, length, inner);
    return;
  }
  const reduce = reducers[op];
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) y[o * inner + i] = reduce(x, o * length * inner + i, length, inner);
  }
}

/** Sums along an axis that is not the last, reading memory in order. */
function sumRows(x: TypedArray, y: TypedArray, outer: number, length: number, inner: number): void {
  const total = new Float64Array(inner);
  for (let o = 0; o < outer; o++) {
    total.fill(0);
    for (let j = 0, at = o * length * inner; j < length; j++) for (let i = 0; i < inner; i++, at++) total[i] += x[at];
    for (let i = 0; i < inner; i++) y[o * inner + i] = total[i];
  }
}

/** Each reduces `length` elements from `start`, `step` apart. Sums accumulate in f64. */
const reducers: Record<ReduceOp, (x: TypedArray, start: number, length: number, step: number) => number> = {
  sum(x, start, length, step) {
    let total = 0;
    for (let j = 0, at = start; j < length; j++, at += step) total += x[at];
    return total;
  },
  max(x, start, length, step) {
    let best = Number.NEGATIVE_INFINITY;
    for (let j = 0, at = start; j < length; j++, at += step) if (x[at] > best || Number.isNaN(x[at])) best = x[at];
    return best;
  },
  argmax(x, start, length, step) {
    let best = 0;
    for (let j = 1; j < length; j++) if (x[start + j * step] > x[start + best * step]) best = j;
    return best;
  },
};

/** Adds a row to every row of a matrix, in place. */
export function addRow(matrix: TypedArray, row: TypedArray): void {
  const { length } = row;
  for (let i = 0; i < matrix.length; i += length) {
    let j = 0;
    for (; j + 4 <= length; j += 4) {
      const at = i + j;
      matrix[at] += row[j];
      matrix[at + 1] += row[j + 1];
      matrix[at + 2] += row[j + 2];
      matrix[at + 3] += row[j + 3];
    }
    for (; j < length; j++) matrix[i + j] += row[j];
  }
}
