/**
 * The implicit process reward of a language model φ against its frozen reference, per token, as PRIME (arXiv
 * 2502.01456) and ITPO (arXiv 2603.23550) define it: q[t] = log π_φ(t) − log π_ref(t) and r[t] = β·q[t].
 */
import type { TokenRange } from "./turns.js";

/** q[t] = logprobs[t] − referenceLogprobs[t] at the sampled tokens, in nats; 0 elsewhere. */
export function logRatios(
  logprobs: ArrayLike<number>,
  referenceLogprobs: ArrayLike<number>,
  turns: readonly TokenRange[],
): Float64Array {
  const ratios = new Float64Array(logprobs.length);
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) ratios[t] = logprobs[t] - referenceLogprobs[t];
  }
  return ratios;
}

export interface TokenScoreOptions {
  readonly beta: number;
  /** λ of the right-to-left recursion r[t] = β·q[t] + λ·r[t+1], which runs over user tokens too. Default 0: r = β·q. */
  readonly lambda?: number;
  /**
   * As the reference implementation: the row's last token gets no score. That is normally a template token, but when
   * the conversation was cut off inside a turn it is that turn's last token. Default false: every sampled token keeps
   * its score.
   */
  readonly reference?: boolean;
  /**
   * As PRIME's `prime_use_gt`: β·q of the row's last sampled token (of its last token, in the reference's form) gives way
   * to what is missing for the row to sum to this, the outcome to predict. Default: it stays.
   */
  readonly outcome?: number;
  /** `whole`: the row's scores are summed on its last sampled token. Default `token`. */
  readonly granularity?: "token" | "whole";
}

/** Token scores r of a row from its log-ratios q, at the sampled tokens; 0 elsewhere. */
export function tokenScores(
  ratios: Float64Array,
  turns: readonly TokenRange[],
  { beta, lambda = 0, reference = false, outcome, granularity = "token" }: TokenScoreOptions,
): Float64Array {
  const scores = new Float64Array(ratios.length);
  if (turns.length === 0) return scores;
  const lastSampled = turns[turns.length - 1].end - 1;
  const own = ratios.map((ratio) => beta * ratio);
  if (outcome !== undefined) {
    const last = reference ? own.length - 1 : lastSampled;
    own[last] = 0;
    own[last] = outcome - own.reduce((sum, score) => sum + score, 0);
  }
  const rewards = new Float64Array(ratios.length);
  let next = 0;
  for (let t = ratios.length - 1; t >= 0; t--) rewards[t] = next = own[t] + lambda * next;
  if (reference) rewards[rewards.length - 1] = 0;
  for (const { start, end } of turns) scores.set(rewards.subarray(start, end), start);
  if (granularity === "token") return scores;
  const sum = scores.reduce((total, score) => total + score, 0);
  return scores.fill(0).fill(sum, lastSampled, lastSampled + 1);
}

/**
 * Divides the token scores of the whole batch by max |Σ_{u≥t} score[u]| + 1e-6 over all rows and positions, so that
 * every suffix sum lies in [−1, 1] and β cancels. Rows with a non-finite score do not count for the divisor.
 *
 * The reference takes the maximum over the rows of one data-parallel rank: with `ranks` above 1 each of that many runs
 * of consecutive rows has a divisor of its own, and the largest is given.
 */
export function primeNorm(
  scores: readonly Float64Array[],
  { ranks = 1 }: { readonly ranks?: number } = {},
): { scores: Float64Array[]; divisor: number } {
  const size = Math.ceil(scores.length / ranks);
  if (ranks > 1 && size < scores.length) {
    const [first, rest] = [primeNorm(scores.slice(0, size)), primeNorm(scores.slice(size), { ranks: ranks - 1 })];
    return { scores: [...first.scores, ...rest.scores], divisor: Math.max(first.divisor, rest.divisor) };
  }
  let largest = 0;
  for (const row of scores) {
    let suffix = 0;
    let rowLargest = 0;
    for (let t = row.length - 1; t >= 0; t--) {
      suffix += row[t];
      rowLargest = Math.max(rowLargest, Math.abs(suffix));
    }
    if (Number.isFinite(suffix)) largest = Math.max(largest, rowLargest);
  }
  const divisor = largest + 1e-6;
  const normalised = scores.map((row) => {
    const result = new Float64Array(row.length);
    for (let t = 0; t < row.length; t++) result[t] = row[t] / divisor;
    return result;
  });
  return { scores: normalised, divisor };
}
