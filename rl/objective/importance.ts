/**
 * Importance weights between the policy as the sampler computed it and as the trainer computes it, where the two differ
 * (other kernels, another precision, older weights): w = π_trainer / π_sampler, truncated or masked.
 */
import type { TokenRange } from "./turns.js";

export interface ImportanceOptions {
  /** One ratio a token, or one a row: the product of its tokens' ratios, which every token of it has. */
  readonly level: "token" | "sequence";
  /**
   * `truncate`: at most `high` (truncated importance sampling; V-trace's ρ̄, arXiv 1802.01561).
   * `mask`: 0 outside [low, high] (masked importance sampling). The losses' normalisers stay those of all tokens.
   */
  readonly bound: "truncate" | "mask";
  /** Default 2. */
  readonly high?: number;
  /** Used with `mask`. Default 0.5. */
  readonly low?: number;
}

/** Log-ratios are clamped to ±20 before the exponential. */
const LARGEST_LOG_RATIO = 20;

/**
 * The weights of a row's sampled tokens, [tokens], 0 elsewhere; how many tokens were truncated or masked. A ratio that is
 * not a number weighs 0.
 */
export function importanceWeights(
  trainerLogprobs: ArrayLike<number>,
  samplerLogprobs: ArrayLike<number>,
  turns: readonly TokenRange[],
  { level, bound, high = 2, low = 0.5 }: ImportanceOptions,
): { weights: Float64Array; bounded: number } {
  const weights = new Float64Array(trainerLogprobs.length);
  let [sum, bounded] = [0, 0];
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) sum += trainerLogprobs[t] - samplerLogprobs[t];
  }
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) {
      const difference = level === "sequence" ? sum : trainerLogprobs[t] - samplerLogprobs[t];
      const ratio = Math.exp(Math.min(Math.max(difference, -LARGEST_LOG_RATIO), LARGEST_LOG_RATIO));
      const isInside = ratio <= high && (bound === "truncate" || ratio >= low);
      if (!isInside) bounded++;
      weights[t] = isInside ? ratio : bound === "truncate" && ratio > high ? high : 0;
    }
  }
  return { weights, bounded };
}
