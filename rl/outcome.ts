import { InputError } from "../lib/index.js";
import type { TrainConfig } from "./config.js";
import type { Environment } from "./environment.js";
import { countTokens } from "./objective/index.js";
import type { Trajectory } from "./trajectory.js";

type OutcomeConfig = TrainConfig["outcome"];

/** @throws InputError where the config names an outcome metric that the environment is known not to have. */
export function checkOutcome({ metrics: known }: Pick<Environment, "metrics">, { metrics }: OutcomeConfig): void {
  const unknown = known && Object.keys(metrics).find((name) => !known.includes(name));
  if (unknown !== undefined) throw unknownMetric(unknown, known!);
}

function unknownMetric(name: string, known: readonly string[]): InputError {
  return new InputError(`outcome.metrics names '${name}'; the environment has ${known.join(", ")}`);
}

/** Σ clamp(weight·metric, −1, 1) over the outcome metrics, without the length penalty. */
export function outcomeOf({ metrics, failure }: Trajectory, config: OutcomeConfig): number {
  if (failure !== undefined) return Number.NaN;
  return Object.entries(config.metrics).reduce((sum, [name, weight]) => {
    if (metrics[name] === undefined) throw unknownMetric(name, Object.keys(metrics));
    return sum + Math.min(1, Math.max(-1, weight * metrics[name]));
  }, 0);
}

/** The label that the process reward model learns: the outcome divided by the sum of the weights, in [0, 1] for metrics in [0, 1]. */
export function labelOf(trajectory: Trajectory, config: OutcomeConfig): number {
  const weights = Object.values(config.metrics).reduce((sum, weight) => sum + weight, 0);
  return outcomeOf(trajectory, config) / weights;
}

/** −tokenPenalty for each token that the policy drew, at least −1. */
export function penaltyOf({ turns }: Trajectory, config: OutcomeConfig): number {
  return Math.max(-1, -config.tokenPenalty * countTokens(turns)) || 0;
}
