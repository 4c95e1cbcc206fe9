/** Surrogates whose losses are per token. */
import type { AddRow } from "./surrogate.js";

/** Log-ratios are clamped to ±20 before the exponential. */
export const LARGEST_LOG_RATIO = 20;

/** One sampled token. */
export interface TokenPlace {
  /** Row of the evaluation, token of the row. */
  readonly j: number;
  readonly t: number;
  readonly advantage: number;
  readonly logprob: number;
  /** log π − log π_old, clamped to ±20, and whether the clamp left it alone. */
  readonly x: number;
  readonly inRange: boolean;
}

/** A token's loss and its derivative by the token's log-prob. */
export interface TokenTerm {
  loss: number;
  derivative: number;
  clipped: boolean;
  capped: boolean;
}

/** The row function of a token loss. `term` fills in the object that it is given, which is used again. */
export function tokenwise(term: (place: TokenPlace, out: TokenTerm) => void): AddRow {
  const place = { j: 0, t: 0, advantage: 0, logprob: 0, x: 0, inRange: true };
  const out: TokenTerm = { loss: 0, derivative: 0, clipped: false, capped: false };
  return ({ turns, oldLogprobs, advantages, importance }, logprobs, weight, gradient, j) => {
    const sums = { loss: 0, logRatio: 0, clipped: 0, capped: 0 };
    place.j = j;
    for (const { start, end } of turns) {
      for (let t = start; t < end; t++) {
        const difference = logprobs[t] - oldLogprobs[t];
        place.t = t;
        place.advantage = advantages[t];
        place.logprob = logprobs[t];
        place.x = Math.min(Math.max(difference, -LARGEST_LOG_RATIO), LARGEST_LOG_RATIO);
        place.inRange = place.x === difference;
        term(place, out);
        const share = importance ? importance[t] : 1;
        sums.loss += share * out.loss;
        sums.logRatio += place.x;
        if (out.clipped) sums.clipped++;
        if (out.capped) sums.capped++;
        gradient[t] += weight * share * out.derivative;
      }
    }
    return sums;
  };
}
