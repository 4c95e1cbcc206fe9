import { createCpu, randomStream, type Tensor } from "../../lib/index.js";

/** Both halves of every fused operation; freed memory is NaN in both. */
export const kernels = createCpu({ poison: true });
export const composed = createCpu({ poison: true, composed: true });
export const backends = [
  ["kernel", kernels],
  ["composed", composed],
] as const;

export function normals(seed: number, length: number, scale = 1): Float64Array {
  const random = randomStream(seed);
  return Float64Array.from({ length }, () => scale * random.normal());
}

export function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) return Number.NaN;
    most = Math.max(most, Math.abs(values[i]));
  }
  return most;
}

/** Largest difference over the largest of `expected`; NaN where a value is NaN, infinite where the lengths differ. */
export function relativeGap(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  const differences = new Float64Array(actual.length);
  for (let i = 0; i < actual.length; i++) differences[i] = actual[i] - expected[i];
  const gap = largest(differences);
  return gap === 0 ? 0 : gap / largest(expected);
}

/** A tensor's elements as a plain array. */
export async function values(x: Tensor): Promise<number[]> {
  return Array.from(await x.data());
}
