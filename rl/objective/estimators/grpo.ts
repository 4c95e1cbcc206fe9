import { type Advantages, accumulate, gather, type Member, settle } from "../advantage.js";
import type { Normalisation } from "../normalise.js";
import type { RewardRow, Rewards } from "../rewards.js";

export interface GrpoOptions {
  /** Whether differences are divided by the group's standard deviation. False gives Dr. GRPO (arXiv 2503.20783). */
  readonly byDeviation: boolean;
  /** Default `none`. */
  readonly normalise?: Normalisation;
}

const EPSILON = 1e-6;

/**
 * Group-relative advantages (GRPO, arXiv 2402.03300). Rewards of one kind (of turns, of tokens, of conversations) are
 * compared with all of that kind in the group, each source by itself, and what lies ahead of a token is summed:
 *
 *     z = (ρ − mean) / (std + 1e-6)      std with Bessel's correction; Dr. GRPO: z = ρ − mean
 *     A[t] = Σ of the z at or after t
 *
 * With a reward per conversation (`shared` credit) that is GRPO's outcome supervision; with rewards per turn or token it is
 * its process supervision. All rewards of a source equal, or a single one of turns or tokens: 0. The only conversation of a
 * group has mean 0 and deviation 1, so that its advantage is its reward.
 */
export function grpo(rows: readonly RewardRow[], rewards: Rewards, options: GrpoOptions): Advantages {
  const gathered = gather(rows, rewards);
  for (const group of gathered.groups) compare(group, options.byDeviation);
  return settle(gathered, options.normalise ?? "none");
}

function compare(group: readonly Member[], byDeviation: boolean): void {
  const ofTurns = statistics(group.flatMap(({ rewards }) => [...rewards.turns]));
  const ofTokens = tokenStatistics(group);
  const conversations = group.map(({ rewards }) => rewards.conversation);
  const ofConversations = group.length > 1 ? statistics(conversations) : { mean: 0, deviation: 1 };
  const z = (value: number, { mean, deviation }: Statistics) =>
    byDeviation ? (value - mean) / (deviation + EPSILON) : value - mean;
  for (const { turns, rewards, advantages } of group) {
    const relative = {
      turns: rewards.turns.map((reward) => z(reward, ofTurns)),
      tokens: rewards.tokens?.map((reward) => z(reward, ofTokens)),
      conversation: z(rewards.conversation, ofConversations),
    };
    accumulate(relative, turns, advantages);
  }
}

interface Statistics {
  readonly mean: number;
  readonly deviation: number;
}

/** About the first value, so that equal values give exactly that mean and 0. */
function statistics(values: readonly number[]): Statistics {
  if (values.length === 0) return { mean: 0, deviation: 1 };
  const offset = values.reduce((sum, value) => sum + (value - values[0]), 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - values[0] - offset) ** 2, 0);
  const deviation = values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 1;
  return { mean: values[0] + offset, deviation };
}

function tokenStatistics(group: readonly Member[]): Statistics {
  let [count, first, sum, squares] = [0, 0, 0, 0];
  for (const { turns, rewards } of group) {
    if (!rewards.tokens) continue;
    for (const { start, end } of turns) {
      for (let t = start; t < end; t++) {
        if (count++ === 0) first = rewards.tokens[t];
        const offset = rewards.tokens[t] - first;
        sum += offset;
        squares += offset * offset;
      }
    }
  }
  if (count === 0) return { mean: 0, deviation: 1 };
  const mean = sum / count;
  const variance = count > 1 ? Math.max(0, squares - count * mean * mean) / (count - 1) : 1;
  return { mean: first + mean, deviation: Math.sqrt(variance) };
}
