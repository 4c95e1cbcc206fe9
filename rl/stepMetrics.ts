/** Mini-batches and metrics of a training step. */
import type { TrainConfig } from "./config.js";
import {
  type Advantages,
  addMetrics,
  type RewardRow,
  type Rewards,
  turnRewards,
  turnStatistics,
  turnSums,
  weightStatistics,
} from "./objective/index.js";
import { outcomeOf, penaltyOf } from "./outcome.js";
import type { Trajectory } from "./trajectory.js";

/** Cuts rows into parts of `size`, in order; a rest smaller than half of that joins the last part. */
export function miniBatches<T>(rows: readonly T[], size: number): T[][] {
  const count = Math.max(1, Math.round(rows.length / size));
  return Array.from({ length: count }, (_, i) =>
    rows.slice(i * size, i === count - 1 ? undefined : (i + 1) * size),
  ).filter((part) => part.length > 0);
}

/** Adds one part's metrics to `GROUP/NAME` as its share of a mean over `parts`. */
export function addMeans(
  total: Record<string, number>,
  group: string,
  part: Readonly<Record<string, number>>,
  parts: number,
): void {
  const named = Object.entries(part).map(([name, value]) => [
    `${group}/${name.replace(`${group}_`, "")}`,
    value / parts,
  ]);
  addMetrics(total, Object.fromEntries(named));
}

/** What the turns earned, how credit is spread over them, and which rows took no part. */
export function creditMetrics(
  rows: readonly RewardRow[],
  rewards: Rewards,
  { counts }: Advantages,
): Record<string, number> {
  const perTurn = turnRewards(rows, rewards).filter((_, i) => !rewards.excluded[i]);
  const metrics: Record<string, number> = {};
  const longest = Math.max(0, ...perTurn.map((turns) => turns.length));
  for (let k = 0; k < longest; k++) {
    const reached = perTurn.filter((turns) => turns.length > k);
    metrics[`turn_reward/${k + 1}`] = reached.reduce((sum, turns) => sum + turns[k], 0) / reached.length;
  }
  if (rewards.weights) {
    const weights = rewards.weights.filter((row) => row.length > 0);
    const { entropy, effectiveTurns } = weightStatistics(weights);
    metrics["weights/entropy"] = entropy;
    metrics["weights/effective_turns"] = effectiveTurns;
    metrics["weights/variance"] = turnStatistics(weights).variance;
  }
  const { sum, variance } = turnStatistics(perTurn);
  metrics["turns/reward_sum"] = sum;
  metrics["turns/reward_variance"] = variance;
  const scored = rows.flatMap(({ scores, turns }, i) =>
    scores && !rewards.excluded[i] ? [turnSums(scores, turns)] : [],
  );
  if (scored.length > 0) {
    const scores = turnStatistics(scored);
    metrics["turns/score_sum"] = scores.sum;
    metrics["turns/score_mean"] = scores.mean;
    metrics["turns/score_variance"] = scores.variance;
  }
  for (const [name, value] of Object.entries(counts)) metrics[`rows/${snakeCase(name)}`] = value;
  return metrics;
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Outcome and shape of conversations, over those that did not fail; how many failed; how they ended, as shares of all. */
export function rolloutMetrics(
  trajectories: readonly Trajectory[],
  { outcome }: Pick<TrainConfig, "outcome">,
): Record<string, number> {
  const done = trajectories.filter(({ failure }) => failure === undefined);
  const mean = (value: (trajectory: Trajectory) => number) =>
    done.length > 0 ? done.reduce((sum, trajectory) => sum + value(trajectory), 0) / done.length : Number.NaN;
  const names = new Set(done.flatMap(({ metrics }) => Object.keys(metrics)));
  return {
    "outcome/mean": mean((trajectory) => outcomeOf(trajectory, outcome) + penaltyOf(trajectory, outcome)),
    ...Object.fromEntries([...names].map((name) => [`outcome/${name}`, mean(({ metrics }) => metrics[name] ?? 0)])),
    "rollout/turns": mean(({ turns }) => turns.length),
    "rollout/truncated": mean(({ turns }) => Number(turns.some(({ stop }) => stop !== "stop"))),
    "rollout/failed": trajectories.length - done.length,
    ...stopShares(trajectories),
  };
}

function stopShares(trajectories: readonly Trajectory[]): Record<string, number> {
  const shares: Record<string, number> = {};
  for (const { stop } of trajectories) shares[`stop/${stop}`] = (shares[`stop/${stop}`] ?? 0) + 1 / trajectories.length;
  return shares;
}

/** Writes `time/NAME`, seconds since the last lap. */
export function stopwatch(metrics: Record<string, number>): (name: string) => void {
  let last = performance.now();
  return (name) => {
    const now = performance.now();
    metrics[`time/${name}`] = (now - last) / 1000;
    last = now;
  };
}

/** Σ of a stream. */
export function total(values: ArrayLike<number>): number {
  let sum = 0;
  for (let t = 0; t < values.length; t++) sum += values[t];
  return sum;
}
