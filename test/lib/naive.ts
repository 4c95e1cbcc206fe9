import { type DType, type Shape, Tensor, type TypedArray, tensor } from "../../lib/index.js";
import { kernels } from "./support.js";

/** A plain array with a shape: what references are written in, one index at a time. */
export interface Naive {
  readonly shape: Shape;
  readonly values: ArrayLike<number>;
}

/** Every index of a shape, in memory order. */
export function indices(shape: Shape): number[][] {
  return shape.reduce<number[][]>(
    (all, extent) => all.flatMap((index) => Array.from({ length: extent }, (_, i) => [...index, i])),
    [[]],
  );
}

/** The element that `index`, of a shape this one broadcasts to, falls on. */
export function at({ shape, values }: Naive, index: readonly number[]): number {
  const own = index.slice(index.length - shape.length);
  return values[shape.reduce((offset, extent, i) => offset * extent + (extent === 1 ? 0 : own[i]), 0)];
}

/** Builds an array from a function of the index. */
export function build(shape: Shape, element: (index: number[]) => number): Naive {
  return { shape, values: indices(shape).map(element) };
}

/**
 * The array as a tensor that lies inside a longer one, between elements that are none of its business: a leading slice,
 * so that an operation which forgets the offset is found out.
 */
export function inside({ shape, values }: Naive, dtype: DType = "f32"): Tensor {
  const whole = tensor([7, 7, 7, ...Array.from(values), 7, 7], { backend: kernels, dtype });
  return new Tensor(whole.storage, shape, 3);
}

/** A tensor as a plain array, for comparison as a whole. */
export async function read(x: Tensor): Promise<Naive> {
  return { shape: x.shape, values: Array.from((await x.data()) as TypedArray) };
}
