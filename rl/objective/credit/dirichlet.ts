import { InputError } from "../../../lib/errors.js";
import { type RandomStream, randomStream } from "../../../lib/random.js";
import type { RewardRow } from "../rewards.js";

export interface DirichletOptions {
  /** α of the symmetric Dirichlet distribution; 1 is uniform over all ways to share, large α near equal shares. Default 1. */
  readonly concentration?: number;
  /** Seed and further numbers (the training step) that the draw depends on, beside the row's group and sample. Default [0]. */
  readonly noise?: readonly [seed: number, ...path: number[]];
}

/** Weights over the turns of each row, drawn from Dirichlet(α, …, α): independent Gamma(α) variables over their sum. */
export function dirichletWeights(
  rows: readonly RewardRow[],
  { concentration = 1, noise: [seed, ...path] = [0] }: DirichletOptions = {},
): Float64Array[] {
  if (!(concentration > 0)) throw new InputError(`dirichlet: concentration must be positive, not ${concentration}`);
  return rows.map(({ turns, group, sample = 0 }) => {
    const random = randomStream(seed, ...path, group, sample);
    const draws = Float64Array.from(turns, () => logGamma(concentration, random));
    const largest = draws.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    const shares = draws.map((draw) => Math.exp(draw - largest));
    const sum = shares.reduce((a, b) => a + b, 0);
    return shares.map((share) => share / sum);
  });
}

/** The logarithm of a Gamma(α) variable: Marsaglia and Tsang 2000; below α = 1 by way of α + 1. */
function logGamma(alpha: number, random: RandomStream): number {
  if (alpha < 1) return logGamma(alpha + 1, random) + Math.log(random.positive()) / alpha;
  const d = alpha - 1 / 3;
  for (;;) {
    const x = random.normal();
    const v = (1 + x / Math.sqrt(9 * d)) ** 3;
    if (v > 0 && Math.log(random.positive()) < (x * x) / 2 + d - d * v + d * Math.log(v)) return Math.log(d * v);
  }
}
