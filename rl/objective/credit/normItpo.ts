import { InputError } from "../../../lib/errors.js";
import type { RewardRow } from "../rewards.js";
import { countTokens, turnSums } from "../turns.js";

export interface NormItpoOptions {
  /** τ of the softmax over a conversation's turns. Default 0.4. */
  readonly temperature?: number;
  /**
   * What the softmax compares: `mean`, the turn's mean score per token times the batch's mean turn length (as the
   * reference implementation), or `sum`, the plain sum over the turn. Default `mean`.
   */
  readonly form?: "mean" | "sum";
  /** Share of the outcome that is spread evenly over the turns instead, in [0, 1]. Default 0. */
  readonly uniformMix?: number;
}

/**
 * Norm-ITPO's weights over the turns of each row (ITPO, arXiv 2603.23550: the posterior of one pivotal turn):
 *
 *     w[i,·] = softmax_k(S[i,k]/C[i,k]·C̄ / τ)      form `mean`,  C̄ = Σ C[i,k] / Σ K[i] over the batch
 *     w[i,·] = softmax_k(S[i,k] / τ)                form `sum`
 *
 * with S the turn's sum of token scores and C its length. Each row's weights sum to 1.
 */
export function normItpoWeights(
  rows: readonly RewardRow[],
  { temperature = 0.4, form = "mean", uniformMix = 0 }: NormItpoOptions = {},
): Float64Array[] {
  if (!(temperature > 0)) throw new InputError(`norm_itpo: temperature must be positive, not ${temperature}`);
  if (!(uniformMix >= 0 && uniformMix <= 1)) {
    throw new InputError(`norm_itpo: uniformMix must lie between 0 and 1, not ${uniformMix}`);
  }
  const tokens = rows.reduce((sum, { turns }) => sum + countTokens(turns), 0);
  const meanLength = tokens / rows.reduce((sum, { turns }) => sum + turns.length, 0);
  return rows.map((row) => {
    const logits = turnSums(tokenScoresOf(row), row.turns).map((sum, k) => {
      const scale = form === "mean" ? meanLength / (row.turns[k].end - row.turns[k].start) : 1;
      return (sum * scale) / temperature;
    });
    return softmax(logits).map((weight) => (1 - uniformMix) * weight + uniformMix / row.turns.length);
  });
}

/** The row's token scores, which the method cannot do without. */
export function tokenScoresOf({ scores }: RewardRow): Float64Array {
  if (!scores)
    throw new Error("credit: the method needs the token scores of a process reward model, and a row has none");
  return scores;
}

function softmax(logits: Float64Array): Float64Array {
  const largest = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const exponentials = logits.map((x) => Math.exp(x - largest));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((x) => x / sum);
}
