/**
 * What credit assignment reads of a conversation, and what it gives: rewards per turn, per conversation or per token.
 */
import { type TokenRange, turnSums } from "./turns.js";

/** One conversation as credit and advantages see it. */
export interface RewardRow {
  /** Rows with one group id (the trajectory's task) are samples of one prompt; they need not stand side by side. */
  readonly group: number;
  /** Which of the group's samples it is. Credit that is drawn at random depends on it, not on the row's place. Default 0. */
  readonly sample?: number;
  /** Length of the row's sequence, in tokens. */
  readonly tokens: number;
  readonly turns: readonly TokenRange[];
  /** Weighted outcome without the length penalty. */
  readonly outcome: number;
  /** Weighted length penalty, ≤ 0. Default 0. The whole reward is R = outcome + lengthPenalty. */
  readonly lengthPenalty?: number;
  /** Token scores of the process reward model, normalised (`primeNorm`), [tokens]. */
  readonly scores?: Float64Array;
  /** A judge's opinion of each turn, [turns], not negative. */
  readonly judgeScores?: ArrayLike<number>;
  /** A critic's values, [tokens]: of the state before token t. */
  readonly values?: ArrayLike<number>;
  /** The judge or the simulated user failed: there is no outcome. */
  readonly failed?: boolean;
}

/** Why a row takes no part: it leaves its group, gets advantage 0 and is counted. */
export type Exclusion = "failed" | "no_turns" | "non_finite";

/** Rewards of one row, by where they are placed. */
export interface RowRewards {
  /** One per turn, at the turn's last token. */
  readonly turns: Float64Array;
  /** At the last token of the last turn. */
  readonly conversation: number;
  /** One per token of the row, read at the sampled tokens only. */
  readonly tokens?: Float64Array;
}

/** Rewards of a batch, aligned with its rows. */
export interface Rewards {
  /** Undefined for the rows that are excluded. */
  readonly rows: readonly (RowRewards | undefined)[];
  /** Undefined for the rows that take part. */
  readonly excluded: readonly (Exclusion | undefined)[];
  /** Per-turn shares of the outcome, for the methods that distribute it by weights; empty for excluded rows. */
  readonly weights?: readonly Float64Array[];
}

/** R, the whole reward of a conversation. */
export function totalReward({ outcome, lengthPenalty = 0 }: RewardRow): number {
  return outcome + lengthPenalty;
}

/**
 * Whether and why a row must be left out.
 *
 * @throws when there is not one score per token.
 */
export function exclusion(row: RewardRow): Exclusion | undefined {
  const { tokens, turns, scores, values, judgeScores } = row;
  if (scores && scores.length !== tokens) {
    throw new RangeError(`credit: a row of ${tokens} tokens has ${scores.length} token scores`);
  }
  if (values && values.length !== tokens) {
    throw new RangeError(`credit: a row of ${tokens} tokens has ${values.length} values`);
  }
  if (row.failed) return "failed";
  if (turns.length === 0) return "no_turns";
  if (!Number.isFinite(totalReward(row))) return "non_finite";
  for (const stream of [scores, values]) {
    if (stream && !turnSums(stream, turns).every(Number.isFinite)) return "non_finite";
  }
  if (judgeScores && !turns.every((_, k) => Number.isFinite(judgeScores[k]))) return "non_finite";
  return undefined;
}

/** Everything a row's turns earn, summed per turn whatever its placement: for transcripts and for `alignment`. */
export function turnRewards(rows: readonly RewardRow[], rewards: Rewards): Float64Array[] {
  return rows.map(({ turns }, i) => {
    const row = rewards.rows[i];
    if (!row) return new Float64Array(turns.length);
    const sums = row.tokens ? turnSums(row.tokens, turns) : new Float64Array(turns.length);
    for (let k = 0; k < sums.length; k++) sums[k] += row.turns[k];
    sums[sums.length - 1] += row.conversation;
    return sums;
  });
}
