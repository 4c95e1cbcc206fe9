import type { TrainConfig } from "./config.js";
import { alignment, assignCredit, countTokens, type Proportion, turnRewards, turnSums } from "./objective/index.js";
import type { PrmScores } from "./rewardModel.js";
import { rewardRow } from "./trainer.js";
import type { Trajectory } from "./trajectory.js";

/** Ways to name the turn that earned the outcome. The last four are what a method must beat. */
export type AlignmentMethod =
  | "norm_itpo"
  | "itpo"
  | "prime"
  | "max_token"
  | "last_turn"
  | "longest_turn"
  | "first_turn"
  | "chance";

/**
 * How often each method's largest turn falls on the turn that truly earned the outcome, with a 95 % interval, over the
 * conversations that did not fail and in which there is one. Meaningful on a fixed set of conversations only: a policy that learns makes its
 * useful turn predictable.
 */
export function creditAlignment(
  trajectories: readonly Trajectory[],
  { scores }: PrmScores,
  config: Pick<TrainConfig, "outcome" | "credit">,
): Record<AlignmentMethod, Proportion> {
  const rows = trajectories.map((trajectory, i) => rewardRow(trajectory, config, scores[i]));
  const useful = trajectories.map(({ usefulTurn, failure }) => (failure === undefined ? usefulTurn : undefined));
  const byCredit = (method: "itpo" | "prime") => turnRewards(rows, assignCredit(rows, { ...config.credit, method }));
  const perTurn = (value: (trajectory: Trajectory, k: number, i: number) => number) =>
    trajectories.map((trajectory, i) => trajectory.turns.map((_, k) => value(trajectory, k, i)));
  const values: Record<AlignmentMethod, readonly ArrayLike<number>[]> = {
    norm_itpo: assignCredit(rows, { ...config.credit, method: "norm_itpo" }).weights!,
    itpo: byCredit("itpo"),
    prime: byCredit("prime"),
    max_token: perTurn(({ turns }, k, i) =>
      scores[i].slice(turns[k].start, turns[k].end).reduce((a, b) => Math.max(a, b)),
    ),
    last_turn: perTurn((_, k) => k),
    longest_turn: perTurn(({ turns }, k) => countTokens([turns[k]])),
    first_turn: perTurn((_, k) => -k),
    chance: perTurn(() => 0),
  };
  return Object.fromEntries(
    Object.entries(values).map(([method, turns]) => [method, alignment(turns, useful)]),
  ) as Record<AlignmentMethod, Proportion>;
}

/** Sum of a turn's token scores over the conversation, for transcripts. */
export function turnScores(trajectory: Trajectory, scores: Float64Array): Float64Array {
  return turnSums(scores, trajectory.turns);
}
