import type { TypedArray } from "../../dtype.js";
import { type Shape, sizeOf } from "../../shape.js";

/** Copies the block of `sizes` at `starts` of x into y, with the source axes visited by `strides`. */
function copyStrided(x: TypedArray, start: number, strides: readonly number[], sizes: Shape, y: TypedArray): void {
  const rank = sizes.length;
  if (sizeOf(sizes) === 0) return;
  if (rank === 0) {
    y[0] = x[start];
    return;
  }
  const [length, step] = [sizes[rank - 1], strides[rank - 1]];
  const index = new Array<number>(rank).fill(0);
  const rows = sizeOf(sizes) / length;
  let from = start;
  for (let r = 0, to = 0; r < rows; r++, to += length) {
    if (step === 1 && length > 32) y.set(x.subarray(from, from + length), to);
    else for (let j = 0; j < length; j++) y[to + j] = x[from + j * step];
    for (let d = rank - 2; d >= 0; d--) {
      from += strides[d];
      if (++index[d] < sizes[d]) break;
      from -= strides[d] * sizes[d];
      index[d] = 0;
    }
  }
}

function stridesOf(shape: Shape): number[] {
  return shape.map((_, i) => sizeOf(shape.slice(i + 1)));
}

export function permuteCopy(x: TypedArray, shape: Shape, axes: readonly number[], y: TypedArray): void {
  const strides = stridesOf(shape);
  copyStrided(
    x,
    0,
    axes.map((axis) => strides[axis]),
    axes.map((axis) => shape[axis]),
    y,
  );
}

export function sliceCopy(x: TypedArray, shape: Shape, starts: readonly number[], sizes: Shape, y: TypedArray): void {
  const strides = stridesOf(shape);
  const start = starts.reduce((sum, at, i) => sum + at * strides[i], 0);
  copyStrided(x, start, strides, sizes, y);
}

export function concatCopy(
  parts: readonly TypedArray[],
  outer: number,
  lengths: readonly number[],
  inner: number,
  y: TypedArray,
): void {
  const row = lengths.reduce((sum, length) => sum + length, 0) * inner;
  let at = 0;
  parts.forEach((part, p) => {
    const width = lengths[p] * inner;
    for (let o = 0; o < outer; o++) y.set(part.subarray(o * width, (o + 1) * width), o * row + at);
    at += width;
  });
}

function checkIndex(op: string, at: number, count: number, lowest = -1): void {
  if (!(at >= lowest && at < count)) throw new Error(`${op}: index ${at} is outside [0, ${count})`);
}

export function gatherRowsCopy(x: TypedArray, columns: number, index: TypedArray, y: TypedArray): void {
  const count = x.length / columns;
  for (let i = 0; i < index.length; i++) {
    const at = index[i];
    checkIndex("gatherRows", at, count);
    if (at < 0) y.fill(0, i * columns, (i + 1) * columns);
    else y.set(x.subarray(at * columns, (at + 1) * columns), i * columns);
  }
}

export function scatterRowsSum(x: TypedArray, columns: number, index: TypedArray, y: TypedArray): void {
  const count = y.length / columns;
  y.fill(0);
  for (let i = 0; i < index.length; i++) {
    checkIndex("scatterRows", index[i], count);
    if (index[i] < 0) continue;
    const to = index[i] * columns;
    const from = i * columns;
    for (let j = 0; j < columns; j++) y[to + j] += x[from + j];
  }
}

export function setRowsCopy(target: TypedArray, columns: number, index: TypedArray, source: TypedArray): void {
  const count = target.length / columns;
  for (let i = 0; i < index.length; i++) {
    checkIndex("setRows", index[i], count);
    if (index[i] >= 0) target.set(source.subarray(i * columns, (i + 1) * columns), index[i] * columns);
  }
}

export function pickCopy(x: TypedArray, columns: number, index: TypedArray, y: TypedArray): void {
  for (let i = 0; i < index.length; i++) {
    checkIndex("pick", index[i], columns, 0);
    y[i] = x[i * columns + index[i]];
  }
}

export function unpickCopy(x: TypedArray, columns: number, index: TypedArray, y: TypedArray): void {
  y.fill(0);
  for (let i = 0; i < index.length; i++) y[i * columns + index[i]] = x[i];
}
