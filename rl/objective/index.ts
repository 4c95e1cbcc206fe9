/**
 * The objective: from conversations with an outcome to per-token advantages, and the losses; pure functions on the
 * host.
 */
export type { AdvantageCounts, Advantages } from "./advantage.js";
export { type Aggregation, aggregationWeights } from "./aggregation.js";
export { assignCredit, type CreditMethod, type CreditOptions, creditMethods } from "./credit/credit.js";
export { type DirichletOptions, dirichletWeights } from "./credit/dirichlet.js";
export { judgeWeights } from "./credit/judge.js";
export { type NormItpoOptions, normItpoWeights } from "./credit/normItpo.js";
export { valueDifferences } from "./credit/value.js";
export { informativeGroups } from "./dynamicSampling.js";
export {
  type AdvantageEstimator,
  type AdvantageOptions,
  advantageEstimators,
  type EstimatorInputs,
  estimateAdvantages,
} from "./estimators/estimate.js";
export { type GaeOptions, gae } from "./estimators/gae.js";
export { type GrpoOptions, grpo } from "./estimators/grpo.js";
export { type OutcomeEstimator, outcomeAdvantages, outcomeEstimators } from "./estimators/outcome.js";
export { type ReinforcePlusPlusOptions, reinforcePlusPlus, remax } from "./estimators/reinforce.js";
export { type RlooForm, type RlooOptions, rloo, rlooForms } from "./estimators/rloo.js";
export { logRatios, primeNorm, type TokenScoreOptions, tokenScores } from "./implicitReward.js";
export { type ImportanceOptions, importanceWeights } from "./importance.js";
export { type KlEstimate, type KlEstimator, klEstimators } from "./kl.js";
export { type KlControl, type KlRewardOptions, klPenalty, nextKlCoefficient } from "./klReward.js";
export {
  addMetrics,
  type BoundLoss,
  type Loss,
  type LossResult,
  type LossScope,
  type Outputs,
  type RowGradient,
} from "./loss.js";
export {
  alignment,
  type Proportion,
  pairAccuracy,
  signAccuracy,
  turnStatistics,
  weightStatistics,
  wilson,
} from "./metrics.js";
export { type Normalisation, whiten } from "./normalise.js";
export {
  fixedAggregation,
  type PolicyLossName,
  type PolicyLossOptions,
  policyLoss,
  policyLossNames,
} from "./policyLoss.js";
export { type PrmLossOptions, type PrmRow, prmLoss } from "./prmLoss.js";
export { type PrmPairLossOptions, type PrmPairRow, prmPairLoss } from "./prmPairLoss.js";
export { type Exclusion, type RewardRow, type Rewards, type RowRewards, totalReward, turnRewards } from "./rewards.js";
export { type SftRow, sftLoss } from "./sftLoss.js";
export type { PolicyRow, SurrogateOptions } from "./surrogates/surrogate.js";
export { completeTurns, countTokens, lengthShares, type TokenRange, turnRanges, turnSums } from "./turns.js";
export { explainedVariance, type ValueLossOptions, type ValueRow, valueLoss } from "./valueLoss.js";
