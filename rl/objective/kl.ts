import type { TokenRange } from "./turns.js";

/**
 * Estimators of KL(policy ‖ reference) from one sampled token, by d = log π(t) − log π_ref(t) (Schulman, "Approximating
 * KL").
 */
export interface KlEstimate {
  /** Its value at d, in nats. */
  value(d: number): number;
  /** Its derivative with respect to d, hence to log π(t). */
  derivative(d: number): number;
}

type PlainEstimator = "k1" | "k2" | "k3" | "abs";

/** A trailing `+` keeps the value and takes k2's derivative, the unbiased one of the KL divergence (straight-through). */
export type KlEstimator = PlainEstimator | `${PlainEstimator}+`;

/** The reference implementation clamps here; its inner clamp of d to ±20 lies beyond. */
const LARGEST_K3 = 10;

const plain: Readonly<Record<PlainEstimator, KlEstimate>> = {
  /** d */
  k1: { value: (d) => d, derivative: () => 1 },
  /** d²/2 */
  k2: { value: (d) => (d * d) / 2, derivative: (d) => d },
  /** e^(−d) + d − 1, at most 10 and flat there */
  k3: {
    value: (d) => Math.min(k3(d), LARGEST_K3),
    derivative: (d) => (k3(d) <= LARGEST_K3 ? -Math.expm1(-d) : 0),
  },
  /** |d| */
  abs: { value: Math.abs, derivative: Math.sign },
};

const straightThrough = ({ value }: KlEstimate): KlEstimate => ({ value, derivative: plain.k2.derivative });

export const klEstimators: Readonly<Record<KlEstimator, KlEstimate>> = {
  ...plain,
  "k1+": straightThrough(plain.k1),
  "k2+": straightThrough(plain.k2),
  "k3+": straightThrough(plain.k3),
  "abs+": straightThrough(plain.abs),
};

/**
 * Σ of a row's KL estimates over its sampled tokens.
 * Adds `scale` times each one's derivative to `gradient`.
 */
export function addKl(
  { value, derivative }: KlEstimate,
  turns: readonly TokenRange[],
  logprobs: ArrayLike<number>,
  referenceLogprobs: ArrayLike<number>,
  scale: number,
  gradient: Float64Array,
): number {
  let sum = 0;
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) {
      const d = logprobs[t] - referenceLogprobs[t];
      sum += value(d);
      gradient[t] += scale * derivative(d);
    }
  }
  return sum;
}

/** Never negative. */
function k3(d: number): number {
  return Math.expm1(-d) + d;
}
