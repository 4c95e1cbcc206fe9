import type { Shape } from "../../shape.js";

/** Axes that several arrays are walked along, each with its own strides (in elements; 0 repeats). */
export interface Axes {
  readonly shape: Shape;
  /** One list of strides an array. */
  readonly strides: readonly (readonly number[])[];
}

/** The same walk in as few axes as can be: without axes of extent 1, and neighbours in one where every array allows it. */
export function mergeAxes(shape: Shape, strides: readonly (readonly number[])[]): Axes {
  const extents: number[] = [];
  const merged: number[][] = strides.map(() => []);
  shape.forEach((extent, axis) => {
    if (extent === 1) return;
    const last = extents.length - 1;
    if (last >= 0 && strides.every((own, i) => merged[i][last] === own[axis] * extent)) {
      extents[last] *= extent;
      strides.forEach((own, i) => {
        merged[i][last] = own[axis];
      });
      return;
    }
    extents.push(extent);
    strides.forEach((own, i) => {
      merged[i].push(own[axis]);
    });
  });
  return { shape: extents, strides: merged };
}

/** Strides of a contiguous array. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1] * shape[i + 1];
  return strides;
}

/** The largest word of 1 to 16 bytes that divides every number: extents, strides and addresses in bytes. */
export function wordBytes(...numbers: readonly number[]): 1 | 2 | 4 | 8 | 16 {
  for (const bytes of [16, 8, 4, 2] as const) if (numbers.every((number) => number % bytes === 0)) return bytes;
  return 1;
}

/** C types by their bytes. */
export const words = { 1: "u8", 2: "u16", 4: "u32", 8: "u64", 16: "uint4" } as const;
