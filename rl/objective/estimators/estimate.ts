/** Advantage estimators by name. */
import type { Advantages } from "../advantage.js";
import type { Normalisation } from "../normalise.js";
import type { RewardRow, Rewards } from "../rewards.js";
import { gae } from "./gae.js";
import { grpo } from "./grpo.js";
import { type OutcomeEstimator, outcomeAdvantages, outcomeEstimators } from "./outcome.js";
import { reinforcePlusPlus, remax } from "./reinforce.js";
import { type RlooForm, rloo } from "./rloo.js";

export type AdvantageEstimator =
  | "rloo"
  | "grpo"
  | "dr_grpo"
  | "reinforce_plus_plus"
  | "reinforce_plus_plus_baseline"
  | "ppo"
  | "remax"
  | OutcomeEstimator;

export interface AdvantageOptions {
  /** Default `rloo`. */
  readonly estimator?: AdvantageEstimator;
  /** Form of `rloo`; see `RlooOptions`. */
  readonly form?: RlooForm;
  /** Default: the estimator's own. */
  readonly normalise?: Normalisation;
  /** γ of `ppo` and `reinforce_plus_plus`. Default 1. */
  readonly gamma?: number;
  /** λ of `ppo`. Default 1. */
  readonly lambda?: number;
  /** Of `reinforce_plus_plus`. Default true. */
  readonly acrossTurns?: boolean;
}

/** What some estimators need beside the rewards. */
export interface EstimatorInputs {
  /** A critic's values, [tokens] a row: `ppo`. */
  readonly values?: readonly (ArrayLike<number> | undefined)[];
  /** Reward of the greedy conversation by group: `remax`. */
  readonly baselines?: ReadonlyMap<number, number>;
}

type Estimate = (
  rows: readonly RewardRow[],
  rewards: Rewards,
  options: AdvantageOptions,
  inputs: EstimatorInputs,
) => Advantages;

const ofOutcome =
  (estimator: OutcomeEstimator): Estimate =>
  (rows, rewards, { normalise }) =>
    outcomeAdvantages(rows, rewards, { estimator, normalise });

const estimators: Record<AdvantageEstimator, Estimate> = {
  rloo,
  grpo: (rows, rewards, { normalise }) => grpo(rows, rewards, { byDeviation: true, normalise }),
  dr_grpo: (rows, rewards, { normalise }) => grpo(rows, rewards, { byDeviation: false, normalise }),
  reinforce_plus_plus: reinforcePlusPlus,
  /** The group's mean subtracted, then whitened over the batch: Dr. GRPO on a common scale. */
  reinforce_plus_plus_baseline: (rows, rewards, { normalise = "whiten" }) =>
    grpo(rows, rewards, { byDeviation: false, normalise }),
  ppo: (rows, rewards, options, { values = [] }) => gae(rows, rewards, values, options),
  remax: (rows, rewards, { normalise }, { baselines = new Map() }) => remax(rows, rewards, { baselines, normalise }),
  ...(Object.fromEntries(outcomeEstimators.map((name) => [name, ofOutcome(name)])) as Record<
    OutcomeEstimator,
    Estimate
  >),
};

export const advantageEstimators = Object.keys(estimators) as AdvantageEstimator[];

/** Advantages and returns of every token. Rows that are excluded have 0. */
export function estimateAdvantages(
  rows: readonly RewardRow[],
  rewards: Rewards,
  options: AdvantageOptions = {},
  inputs: EstimatorInputs = {},
): Advantages {
  return estimators[options.estimator ?? "rloo"](rows, rewards, options, inputs);
}
