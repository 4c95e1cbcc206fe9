/** Estimators without a group baseline of their own: discounted rewards to go. */
import { type Advantages, type Gathered, gather, rewardStream, settle } from "../advantage.js";
import type { Normalisation } from "../normalise.js";
import type { RewardRow, Rewards } from "../rewards.js";

export interface ReinforcePlusPlusOptions {
  /** γ per sampled token. Default 1. */
  readonly gamma?: number;
  /**
   * Whether a return goes on across the user's messages. Default true. False as the reference: it starts again at each,
   * so that a turn sees no reward of a later one, and a reward at the end reaches the last turn alone.
   */
  readonly acrossTurns?: boolean;
  /** Default `whiten`. */
  readonly normalise?: Normalisation;
}

/**
 * REINFORCE++ (arXiv 2501.03262): G[t] = r[t] + γ·G[next sampled token], advantages G whitened over the batch, r the
 * rewards of tokens, of turns (at their last token) and of the conversation (at its last sampled token).
 */
export function reinforcePlusPlus(
  rows: readonly RewardRow[],
  rewards: Rewards,
  { gamma = 1, acrossTurns = true, normalise = "whiten" }: ReinforcePlusPlusOptions = {},
): Advantages {
  const gathered = gather(rows, rewards);
  for (const member of gathered.groups.flat()) {
    const stream = rewardStream(member);
    const { turns, advantages, returns } = member;
    let next = 0;
    for (const { start, end } of turns.toReversed()) {
      if (!acrossTurns) next = 0;
      for (let t = end - 1; t >= start; t--) returns[t] = next = stream[t] + gamma * next;
    }
    advantages.set(returns);
  }
  return settle(gathered, normalise, { keepReturns: true });
}

/**
 * ReMax (arXiv 2310.10505): rewards to go less the reward of the prompt's greedy conversation, by group.
 *
 * @throws when a group has no baseline.
 */
export function remax(
  rows: readonly RewardRow[],
  rewards: Rewards,
  {
    baselines,
    normalise = "none",
  }: { readonly baselines: ReadonlyMap<number, number>; readonly normalise?: Normalisation },
): Advantages {
  const gathered: Gathered = gather(rows, rewards);
  for (const member of gathered.groups.flat()) {
    const baseline = baselines.get(rows[member.index].group);
    if (baseline === undefined) throw new Error("remax: a group has no greedy conversation to be its baseline");
    const stream = rewardStream(member);
    const { turns, advantages, returns } = member;
    let sum = 0;
    for (const { start, end } of turns.toReversed()) {
      for (let t = end - 1; t >= start; t--) {
        returns[t] = sum += stream[t];
        advantages[t] = sum - baseline;
      }
    }
  }
  return settle(gathered, normalise, { keepReturns: true });
}
