import { type Advantages, accumulate, gather, type Member, settle } from "../advantage.js";
import { affine, type Normalisation, sumPowers } from "../normalise.js";
import type { RewardRow, Rewards } from "../rewards.js";
import { countTokens, type TokenRange } from "../turns.js";

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
      tokens: rewards.tokens && relativeTokens(rewards.tokens, turns, ofTokens, byDeviation),
      conversation: z(rewards.conversation, ofConversations),
    };
    accumulate(relative, turns, advantages);
  }
}

function relativeTokens(
  tokens: Float64Array,
  turns: readonly TokenRange[],
  { mean, deviation }: Statistics,
  byDeviation: boolean,
): Float64Array {
  const relative = new Float64Array(tokens.length);
  affine(relative, tokens, turns, mean, byDeviation ? 1 / (deviation + EPSILON) : 1);
  return relative;
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

/** The same of all sampled tokens. */
function tokenStatistics(group: readonly Member[]): Statistics {
  const [tokens, turns] = [group.map(({ rewards }) => rewards.tokens), group.map((member) => member.turns)];
  if (!tokens.every((row) => row !== undefined)) return { mean: 0, deviation: 1 };
  const first = tokens[0][turns[0][0].start];
  const count = turns.reduce((sum, row) => sum + countTokens(row), 0);
  const offset = sumPowers(tokens, turns, first, 1) / count;
  const squares = sumPowers(tokens, turns, first + offset, 2);
  return { mean: first + offset, deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : 1 };
}
