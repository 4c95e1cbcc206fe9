/**
 * Assistant turns as token ranges. Every token-level array of the objective has one entry per token of the row's whole
 * sequence, prompt included; what the policy sampled is given by ranges, so no mask and no padding exist here.
 */
import type { StopReason } from "../trajectory.js";

/** Tokens [start, end), all sampled by the policy. `Turn` of a trajectory is one. */
export interface TokenRange {
  readonly start: number;
  readonly end: number;
}

/** The maximal runs of ones in a mask of sampled tokens, in order. A run that reaches the mask's end counts. */
export function turnRanges(sampled: ArrayLike<number>): TokenRange[] {
  const turns: TokenRange[] = [];
  for (let start = 0; start < sampled.length; start++) {
    if (!sampled[start]) continue;
    let end = start + 1;
    while (end < sampled.length && sampled[end]) end++;
    turns.push({ start, end });
    start = end;
  }
  return turns;
}

/**
 * The turns that the policy ended itself, without those cut off at a token limit: train on these to mask partial turns.
 */
export function completeTurns<T extends { readonly stop: StopReason }>(turns: readonly T[]): T[] {
  return turns.filter(({ stop }) => stop !== "turn_length" && stop !== "context_length");
}

/** Number of tokens in the turns. */
export function countTokens(turns: readonly TokenRange[]): number {
  let count = 0;
  for (const { start, end } of turns) count += end - start;
  return count;
}

/** Each turn's share of the row's sampled tokens, ℓ[k] = C[k] / Σ_j C[j]; empty for a row without turns. */
export function lengthShares(turns: readonly TokenRange[]): Float64Array {
  const total = countTokens(turns);
  return Float64Array.from(turns, ({ start, end }) => (end - start) / total);
}

/** Sums of token-level values over each turn, S[k] = Σ_{t in turn k} values[t]. */
export function turnSums(values: ArrayLike<number>, turns: readonly TokenRange[]): Float64Array {
  const sums = new Float64Array(turns.length);
  for (let k = 0; k < turns.length; k++) {
    let sum = 0;
    for (let t = turns[k].start; t < turns[k].end; t++) sum += values[t];
    sums[k] = sum;
  }
  return sums;
}
