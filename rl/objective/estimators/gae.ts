import { type Advantages, gather, rewardStream, settle } from "../advantage.js";
import type { Normalisation } from "../normalise.js";
import type { RewardRow, Rewards } from "../rewards.js";

export interface GaeOptions {
  /** γ per sampled token. Default 1. */
  readonly gamma?: number;
  /** λ: 1 is rewards to go less the value, 0 the one-step difference. Default 1. */
  readonly lambda?: number;
  /** Default `whiten`. */
  readonly normalise?: Normalisation;
}

/**
 * Generalised advantage estimation (arXiv 1506.02438) along the sampled tokens; the user's messages are skipped, so that
 * the state after a turn is the one before the next turn's first token:
 *
 *     δ = r[t] + γ·V[next] − V[t]    A[t] = δ + γ·λ·A[next]    returns[t] = A[t] + V[t], A before normalisation
 *
 * r holds the rewards of tokens, of turns (at their last token) and of the conversation at its last sampled token: a reward
 * on a user's token would be lost. `values` are a critic's, [tokens] a row, aligned with the rows.
 *
 * @throws when a row that takes part has no values.
 */
export function gae(
  rows: readonly RewardRow[],
  rewards: Rewards,
  values: readonly (ArrayLike<number> | undefined)[],
  { gamma = 1, lambda = 1, normalise = "whiten" }: GaeOptions = {},
): Advantages {
  const gathered = gather(rows, rewards);
  for (const member of gathered.groups.flat()) {
    const row = values[member.index];
    if (!row) throw new Error("gae: a row has no values; estimator ppo needs a critic");
    const stream = rewardStream(member);
    const { turns, advantages, returns } = member;
    let [nextValue, nextAdvantage] = [0, 0];
    for (const { start, end } of turns.toReversed()) {
      for (let t = end - 1; t >= start; t--) {
        const delta = stream[t] + gamma * nextValue - row[t];
        nextAdvantage = delta + gamma * lambda * nextAdvantage;
        nextValue = row[t];
        advantages[t] = nextAdvantage;
        returns[t] = nextAdvantage + row[t];
      }
    }
  }
  return settle(gathered, normalise, { keepReturns: true });
}
