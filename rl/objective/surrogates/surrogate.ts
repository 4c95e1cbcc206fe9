/** What a policy-gradient surrogate is: the part of the policy loss that carries the advantages. */
import type { Aggregation } from "../aggregation.js";
import type { LossScope, Outputs } from "../loss.js";
import type { TokenRange } from "../turns.js";

/** What the policy loss needs of a row, [tokens] each. */
export interface PolicyRow {
  readonly turns: readonly TokenRange[];
  /** Log-probs under the policy that sampled the row, or under the trainer's copy of it (see `importanceWeights`). */
  readonly oldLogprobs: ArrayLike<number>;
  readonly advantages: ArrayLike<number>;
  /** Log-probs under the frozen reference; needed when there is a KL term, measured (`kl`) whenever present. */
  readonly referenceLogprobs?: ArrayLike<number>;
  /** Factors on the token losses that correct for the sampler (`importanceWeights`). Default 1. */
  readonly importance?: ArrayLike<number>;
}

export interface SurrogateOptions {
  readonly clipLow: number;
  readonly clipHigh: number;
  readonly dualClip: number;
  /** Share of the mini-batch's tokens that clip_cov and kl_cov act on. */
  readonly covShare: number;
  /** clip_cov draws from the tokens whose covariance lies strictly between these. */
  readonly covLow: number;
  readonly covHigh: number;
  /** kl_cov's coefficient. */
  readonly covKl: number;
  /** Seed of clip_cov's draw. */
  readonly seed: number;
}

/** Sums over a row's sampled tokens. */
export interface SurrogateSums {
  readonly loss: number;
  /** Of x = log π − log π_old. */
  readonly logRatio: number;
  /** Number of tokens that the clipping binds for (`clipfrac`), and of those capped from below (`clipfrac_lower`). */
  readonly clipped: number;
  readonly capped: number;
}

/** Evaluates row `j` of an evaluation; adds `weight` times each token's derivative to `gradient`. */
export type AddRow = (
  row: PolicyRow,
  logprobs: ArrayLike<number>,
  weight: number,
  gradient: Float64Array,
  j: number,
) => SurrogateSums;

export interface Surrogate {
  readonly scope: LossScope;
  /** The only aggregation that it is defined with; absent: any. */
  readonly aggregation?: Aggregation;
  /** Told all rows of an evaluation first: with scope `batch` that is the mini-batch. */
  prepare(options: SurrogateOptions, rows: readonly PolicyRow[], outputs: readonly Outputs[]): AddRow;
}
