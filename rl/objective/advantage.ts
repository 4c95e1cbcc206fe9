/** What every advantage estimator starts from and gives. */
import { affine, type Normalisation, normaliser } from "./normalise.js";
import { type RewardRow, type Rewards, type RowRewards, totalReward } from "./rewards.js";
import type { TokenRange } from "./turns.js";

/** Token-level streams of a batch, aligned with its rows, [tokens] each. All 0 for an excluded row. */
export interface Advantages {
  readonly advantages: readonly Float64Array[];
  /**
   * Σ_{u≥t} reward[u] at every token (γ = 1), which is what a critic learns. With the reference's RLOO the rewards in
   * it are those after the baseline is subtracted; with `ppo` they are advantage + value, with γ and λ.
   */
  readonly returns: readonly Float64Array[];
  readonly counts: AdvantageCounts;
}

export interface AdvantageCounts {
  readonly rows: number;
  /** Rows left out because a judge or simulator failed, because they have no turn, because a number is not finite. */
  readonly failed: number;
  readonly noTurns: number;
  readonly nonFinite: number;
  /** Groups with a single row left: no baseline, the advantage is the reward itself. A warning is due. */
  readonly singletonGroups: number;
  /** Turns that no sibling reached: no baseline for them (turn-index form only). */
  readonly unpairedTurns: number;
  /** Groups of two rows or more in which all have the same whole reward. */
  readonly flatGroups: number;
}

/** A row that takes part, with the streams to fill in. */
export interface Member {
  /** Its place among the rows. */
  readonly index: number;
  readonly turns: readonly TokenRange[];
  readonly rewards: RowRewards;
  /** Shares of the outcome per turn, where credit divides it by weights. */
  readonly weights?: Float64Array;
  readonly advantages: Float64Array;
  readonly returns: Float64Array;
}

export type Gathered = ReturnType<typeof gather>;

/** The members of a batch by group, all its streams (zero so far), and what is known before any estimate is made. */
export function gather(rows: readonly RewardRow[], rewards: Rewards) {
  const streams = rows.map(({ tokens }) => ({
    advantages: new Float64Array(tokens),
    returns: new Float64Array(tokens),
  }));
  const groups = new Map<number, { members: Member[]; totals: Set<number> }>();
  rows.forEach((row, i) => {
    const rowRewards = rewards.rows[i];
    if (!rowRewards) return;
    const group = groups.get(row.group) ?? { members: [], totals: new Set() };
    const weights = rewards.weights?.[i];
    group.members.push({ index: i, turns: row.turns, rewards: rowRewards, weights, ...streams[i] });
    group.totals.add(totalReward(row));
    groups.set(row.group, group);
  });
  const count = (reason: string) => rewards.excluded.filter((excluded) => excluded === reason).length;
  const all = [...groups.values()];
  const counts: AdvantageCounts = {
    rows: rows.length,
    failed: count("failed"),
    noTurns: count("no_turns"),
    nonFinite: count("non_finite"),
    singletonGroups: all.filter(({ members }) => members.length === 1).length,
    unpairedTurns: 0,
    flatGroups: all.filter(({ members, totals }) => members.length > 1 && totals.size === 1).length,
  };
  return {
    groups: all.map(({ members }) => members),
    advantages: streams.map((stream) => stream.advantages),
    returns: streams.map((stream) => stream.returns),
    counts,
  };
}

/** Writes Σ_{u≥t} reward[u] to every token t of `returns`: rewards to go, between the turns too. */
export function accumulate(rewards: RowRewards, turns: readonly TokenRange[], returns: Float64Array): void {
  let sum = rewards.conversation;
  for (let k = turns.length - 1; k >= 0; k--) {
    const { start, end } = turns[k];
    sum += rewards.turns[k];
    if (rewards.tokens) {
      for (let t = end - 1; t >= start; t--) returns[t] = sum += rewards.tokens[t];
    } else {
      returns.fill(sum, start, end);
    }
    returns.fill(sum, k > 0 ? turns[k - 1].end : 0, start);
  }
}

/** All rewards of a row as one stream, [tokens]: those of turns at their last tokens, the conversation's at its last. */
export function rewardStream({ rewards, turns, returns }: Member): Float64Array {
  const stream = new Float64Array(returns.length);
  turns.forEach(({ start, end }, k) => {
    if (rewards.tokens) stream.set(rewards.tokens.subarray(start, end), start);
    stream[end - 1] += rewards.turns[k];
  });
  stream[turns.at(-1)!.end - 1] += rewards.conversation;
  return stream;
}

/**
 * What an estimator gives, from the raw advantages that it wrote: 0 outside the turns, normalised inside. Returns become
 * rewards to go, unless the estimator wrote its own.
 */
export function settle(
  { groups, advantages, returns, counts }: Gathered,
  normalise: Normalisation,
  { keepReturns = false } = {},
): Advantages {
  const members = groups.flat();
  const turns = members.map((member) => member.turns);
  const raw = members.map((member) => member.advantages);
  const { mean, scale } = normaliser(raw, turns, normalise);
  members.forEach((member) => {
    if (!keepReturns) accumulate(member.rewards, member.turns, member.returns);
    affine(member.advantages, member.advantages, member.turns, mean, scale);
    let from = 0;
    for (const { start, end } of [...member.turns, { start: member.advantages.length, end: 0 }]) {
      member.advantages.fill(0, from, start);
      from = end;
    }
  });
  return { advantages, returns, counts };
}
