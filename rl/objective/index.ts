/**
 * The objective: from conversations with an outcome to per-token advantages, and the losses; pure functions on the
 * host.
 */
export type { AdvantageCounts, Advantages } from "./advantage.js";
export { type Aggregation, aggregationWeights } from "./aggregation.js";
export { assignCredit, type CreditMethod, type CreditOptions, creditMethods } from "./credit/credit.js";
export { type NormItpoOptions, normItpoWeights } from "./credit/normItpo.js";
export { logRatios, primeNorm, type TokenScoreOptions, tokenScores } from "./implicitReward.js";
export { type KlEstimate, type KlEstimator, klEstimators } from "./kl.js";
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
export { type PolicyLossOptions, type PolicyRow, policyLoss } from "./policyLoss.js";
export { type PrmLossOptions, type PrmRow, prmLoss } from "./prmLoss.js";
export { type Exclusion, type RewardRow, type Rewards, type RowRewards, totalReward, turnRewards } from "./rewards.js";
export { type RlooForm, type RlooOptions, rloo } from "./rloo.js";
export { type SftRow, sftLoss } from "./sftLoss.js";
export { completeTurns, countTokens, lengthShares, type TokenRange, turnRanges, turnSums } from "./turns.js";
