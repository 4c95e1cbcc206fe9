/** What the tables of test vectors are made of. */
import { type RewardRow, type TokenRange, turnRanges } from "../../../rl/objective/index.js";

export type Table = readonly ArrayLike<number>[];

/** One case: numbers computed here, and what they must be. */
export interface Vector {
  readonly name: string;
  readonly actual: () => Table;
  readonly expected: Table;
  readonly tolerance: number;
}

/** Tables of several results of one computation, one case. */
export function vector(name: string, actual: () => Table, expected: Table, tolerance = 1e-5): Vector {
  return { name, actual, expected, tolerance };
}

/** The values inside the turns alone, row by row. */
export function sampled(table: Table, turns: readonly (readonly TokenRange[])[]): number[][] {
  return turns.map((row, i) => row.flatMap(({ start, end }) => Array.from(table[i]).slice(start, end)));
}

/** The values at the first token of every turn. */
export function atTurns(table: Table, rows: readonly Pick<RewardRow, "turns">[]): number[][] {
  return rows.map(({ turns }, i) => turns.map(({ start }) => table[i][start]));
}

/** Rows of one reward each, or of a stream of token rewards. */
export function rewardRows(
  masks: readonly (readonly number[])[],
  groups: readonly number[],
  outcome: (i: number) => number,
): RewardRow[] {
  return masks.map((mask, i) => ({
    group: groups[i],
    tokens: mask.length,
    turns: turnRanges(mask),
    outcome: outcome(i),
  }));
}
