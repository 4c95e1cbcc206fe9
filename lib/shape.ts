/** Extents of a tensor's axes, outermost first. A scalar's shape is empty. */
export type Shape = readonly number[];

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  return shape.reduce((size, extent) => size * extent, 1);
}

/** How a shape stands in error messages: `[2, 3]`. */
export function show(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, i) => extent === b[i]);
}

/** The shape two operands broadcast to by NumPy's rule: aligned at the last axis, extents equal or 1. */
export function broadcast(op: string, a: Shape, b: Shape): Shape {
  if (sameShape(a, b)) return a;
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new Error(`${op}: shapes ${show(a)} and ${show(b)} do not broadcast; extents must be equal or 1`);
    }
    return x === 1 ? y : x;
  });
}

/** Turns an axis that may count from the end (−1 is the last) into one that counts from the front. */
export function normalizeAxis(op: string, axis: number, shape: Shape): number {
  const normalized = axis < 0 ? axis + shape.length : axis;
  if (!Number.isInteger(axis) || normalized < 0 || normalized >= shape.length) {
    throw new Error(`${op}: axis ${axis} is outside shape ${show(shape)}`);
  }
  return normalized;
}

/** A shape seen from one axis: `outer` blocks of `length` rows of `inner` elements. */
export function around(shape: Shape, axis: number): { outer: number; length: number; inner: number } {
  return {
    outer: sizeOf(shape.slice(0, axis)),
    length: shape[axis],
    inner: sizeOf(shape.slice(axis + 1)),
  };
}

/** Element strides of `shape` inside the broadcast shape `out`: 0 along axes that repeat. */
export function broadcastStrides(shape: Shape, out: Shape): number[] {
  const strides = new Array<number>(out.length).fill(0);
  let stride = 1;
  for (let i = 1; i <= shape.length; i++) {
    const extent = shape[shape.length - i];
    if (extent !== 1) strides[out.length - i] = stride;
    stride *= extent;
  }
  return strides;
}
