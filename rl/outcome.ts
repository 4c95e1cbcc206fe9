import { InputError } from "../lib/index.js";
import type { TrainConfig } from "./config.js";
import type { Environment } from "./environment.js";
import { countTokens } from "./objective/index.js";
import { tokenAmount } from "./rewards/tokenAmount.js";
import type { Trajectory } from "./trajectory.js";

type OutcomeConfig = TrainConfig["outcome"];

/** @throws InputError where the config needs a metric that the environment is known not to have. */
export function checkOutcome(
  { name: environment, metrics: known }: Pick<Environment, "name" | "metrics">,
  { outcome, credit }: Pick<TrainConfig, "outcome" | "credit">,
): void {
  if (!known) return;
  const unknown = Object.keys(outcome.metrics).find((name) => !known.includes(name));
  if (unknown !== undefined) throw unknownMetric(unknown, known);
  if (credit.method === "judge" && !known.includes("judge")) {
    throw new InputError(
      `credit.method judge needs a judge's scores of the turns, which environment ${environment} has not`,
    );
  }
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

/**
 * The length penalty: −tokenPenalty for each token that the policy drew, and −wordPenalty for each word of the messages
 * after the opening, the user's too, as the reference implementation counts; each of the two at least −1.
 */
export function penaltyOf({ turns, messages }: Trajectory, config: OutcomeConfig): number {
  const tokens = Math.max(-1, -config.tokenPenalty * countTokens(turns)) || 0;
  if (config.wordPenalty === 0) return tokens;
  return tokens + Math.max(-1, -config.wordPenalty * tokenAmount(messages, firstTurn(messages))) || 0;
}

function firstTurn(messages: Trajectory["messages"]): number {
  const first = messages.findIndex(({ role }) => role === "assistant");
  return first < 0 ? messages.length : first;
}

/** What a judge said of each turn: the metrics `judge/1`, `judge/2`, …; undefined where one is missing or negative. */
export function judgeScoresOf({ turns, metrics }: Trajectory): number[] | undefined {
  const scores = turns.map((_, k) => metrics[`judge/${k + 1}`]);
  return scores.every((score) => score >= 0) ? scores : undefined;
}
