/** A KL penalty inside the reward, as verl's `apply_kl_penalty`, and what sets its coefficient. */
import { type KlEstimator, klEstimators } from "./kl.js";
import type { RewardRow, Rewards } from "./rewards.js";
import { countTokens } from "./turns.js";

export interface KlRewardOptions {
  readonly coefficient: number;
  /** Default `k1`. */
  readonly estimator?: KlEstimator;
  /**
   * Where a row's penalties stand: on their tokens, summed on their turns, or summed at the end of the conversation.
   * Estimators that compare the rewards of one kind within a group need them with the others of that kind.
   */
  readonly placement: "token" | "turn" | "conversation";
}

/**
 * Rewards less coefficient·KL(log π(t) − log π_ref(t)) of every sampled token, for the rows that take part. A row whose
 * KL is not finite is excluded.
 *
 * @returns the new rewards, and the mean over rows of each row's mean KL, which the controller reads
 */
export function klPenalty(
  rows: readonly RewardRow[],
  rewards: Rewards,
  logprobs: readonly ArrayLike<number>[],
  referenceLogprobs: readonly ArrayLike<number>[],
  { coefficient, estimator = "k1", placement }: KlRewardOptions,
): { rewards: Rewards; kl: number } {
  const { value } = klEstimators[estimator];
  let [sum, count] = [0, 0];
  const excluded = [...rewards.excluded];
  const penalised = rewards.rows.map((row, i) => {
    if (!row) return row;
    const { turns } = rows[i];
    const tokens = row.tokens?.slice() ?? new Float64Array(rows[i].tokens);
    const perTurn = new Float64Array(turns.length);
    turns.forEach(({ start, end }, k) => {
      for (let t = start; t < end; t++) {
        const kl = value(logprobs[i][t] - referenceLogprobs[i][t]);
        perTurn[k] += kl;
        tokens[t] -= coefficient * kl;
      }
    });
    const total = perTurn.reduce((a, b) => a + b, 0);
    if (!Number.isFinite(total)) {
      excluded[i] = "non_finite";
      return undefined;
    }
    sum += total / countTokens(turns);
    count++;
    if (placement === "token") return { ...row, tokens };
    if (placement === "conversation") return { ...row, conversation: row.conversation - coefficient * total };
    return { ...row, turns: row.turns.map((reward, k) => reward - coefficient * perTurn[k]) };
  });
  return { rewards: { ...rewards, rows: penalised, excluded }, kl: count > 0 ? sum / count : 0 };
}

export interface KlControl {
  /** `fixed` keeps the coefficient. */
  readonly controller: "fixed" | "adaptive";
  /** The KL to steer to, in nats a token. */
  readonly target: number;
  /** Rows over which the coefficient may change by about a fifth of itself per unit. */
  readonly horizon: number;
}

/**
 * The next coefficient (Ziegler et al., arXiv 1909.08593): coefficient·(1 + clip(kl/target − 1, ±0.2)·rows/horizon).
 */
export function nextKlCoefficient(
  coefficient: number,
  kl: number,
  rows: number,
  { controller, target, horizon }: KlControl,
): number {
  if (controller === "fixed" || !Number.isFinite(kl)) return coefficient;
  const error = Math.min(Math.max(kl / target - 1, -0.2), 0.2);
  return coefficient * (1 + (error * rows) / horizon);
}
