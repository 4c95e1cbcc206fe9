import { InputError } from "../../lib/errors.js";
import { fastExp } from "../../lib/exp.js";
import { type Aggregation, aggregationWeights } from "./aggregation.js";
import { addKl, type KlEstimator, klEstimators } from "./kl.js";
import { checkLengths, type Loss, type RowGradient } from "./loss.js";
import { cispo } from "./surrogates/cispo.js";
import { clipCov, klCov } from "./surrogates/covariance.js";
import { geoMean } from "./surrogates/geoMean.js";
import { gpg } from "./surrogates/gpg.js";
import { gspo } from "./surrogates/gspo.js";
import { ppo } from "./surrogates/ppo.js";
import type { PolicyRow, Surrogate, SurrogateOptions } from "./surrogates/surrogate.js";
import { LARGEST_LOG_RATIO } from "./surrogates/tokenwise.js";
import { turnSums } from "./turns.js";

/** The surrogates by verl's names. */
const surrogates = {
  vanilla: ppo,
  gspo,
  cispo,
  gpg,
  clip_cov: clipCov,
  kl_cov: klCov,
  geo_mean: geoMean,
} satisfies Record<string, Surrogate>;

export type PolicyLossName = keyof typeof surrogates;

export const policyLossNames = Object.keys(surrogates) as PolicyLossName[];

/** The only aggregation that a surrogate is defined with; undefined where any goes. */
export function fixedAggregation(loss: PolicyLossName): Aggregation | undefined {
  return (surrogates[loss] as Surrogate).aggregation;
}

export interface PolicyLossOptions extends Partial<SurrogateOptions> {
  /** The surrogate. Default `vanilla`, PPO's. Clip ranges default to 0.2 each, dualClip to 3. */
  readonly loss?: PolicyLossName;
  /** Default `token-mean`, or the only one that the surrogate is defined with. */
  readonly aggregation?: Aggregation;
  /** T of `seq-mean-token-sum-norm`. */
  readonly normLength?: number;
  /** KL penalty to the reference. Default none; default estimator `k3`. */
  readonly kl?: { readonly coefficient: number; readonly estimator?: KlEstimator };
  /** Bonus on the entropy. Default 0. */
  readonly entropyCoefficient?: number;
}

/**
 * A policy-gradient surrogate, minus an entropy bonus, plus a KL penalty, with L the surrogate's token losses:
 *
 *     loss = agg(L) − entropyCoefficient·agg(entropy) + kl.coefficient·agg(KL)
 *
 * Metrics, over the mini-batch: `pg_loss`, `kl`, `entropy` aggregated like the loss; `ppo_kl` (−x), `clipfrac` (share
 * of tokens that the surrogate clips) and `clipfrac_lower` (share that it caps) as means over its sampled tokens, and so
 * e^x − 1 (`ratio_excess`) and the share of tokens whose x is not 0 to the bit (`off_policy`).
 */
export function policyLoss(options: PolicyLossOptions = {}): Loss<PolicyRow> {
  const { loss = "vanilla", kl, entropyCoefficient = 0, normLength } = options;
  const surrogate: Surrogate = surrogates[loss];
  const aggregation = options.aggregation ?? surrogate.aggregation ?? "token-mean";
  const settings = surrogateOptions(options);
  if (surrogate.aggregation && aggregation !== surrogate.aggregation) {
    throw new InputError(`policyLoss: ${loss} is always ${surrogate.aggregation}, not ${aggregation}`);
  }
  const klCoefficient = kl?.coefficient ?? 0;
  const estimator = klEstimators[kl?.estimator ?? "k3"];

  return {
    name: "policy",
    scope: surrogate.scope,
    needs: { entropy: entropyCoefficient !== 0, values: false },
    bind(rows) {
      const ranges = rows.map(({ turns }) => turns);
      const weights = aggregationWeights(ranges, aggregation, normLength);
      const tokenWeights = aggregationWeights(ranges, "token-mean");
      const hasReference = rows.every((row) => row.referenceLogprobs);
      if (klCoefficient !== 0 && !hasReference) {
        throw new Error("policyLoss: a KL penalty is set, but a row has no referenceLogprobs");
      }
      return (outputs, indices) => {
        const hasEntropy = outputs.every((row) => row.entropy);
        if (entropyCoefficient !== 0 && !hasEntropy) {
          throw new Error("policyLoss: an entropy bonus is set, but the outputs hold no entropy");
        }
        const metrics = { pg_loss: 0, ppo_kl: 0, clipfrac: 0, clipfrac_lower: 0, ratio_excess: 0, off_policy: 0 };
        let kl = 0;
        let entropy = 0;
        indices.forEach((i, j) => {
          const { oldLogprobs, advantages, referenceLogprobs, importance } = rows[i];
          checkLengths("policyLoss", outputs[j], { oldLogprobs, advantages, referenceLogprobs, importance });
        });
        const addRow = surrogate.prepare(
          settings,
          indices.map((i) => rows[i]),
          outputs,
        );
        const gradients = indices.map((i, j): RowGradient => {
          const { turns, referenceLogprobs } = rows[i];
          const { logprobs } = outputs[j];
          const gradient = new Float64Array(logprobs.length);
          const row = addRow(rows[i], logprobs, weights[i], gradient, j);
          metrics.pg_loss += weights[i] * row.loss;
          metrics.ppo_kl -= tokenWeights[i] * row.logRatio;
          metrics.clipfrac += tokenWeights[i] * row.clipped;
          metrics.clipfrac_lower += tokenWeights[i] * row.capped;
          const change = changeOf(rows[i], logprobs);
          metrics.ratio_excess += tokenWeights[i] * change.excess;
          metrics.off_policy += tokenWeights[i] * change.tokens;
          if (hasReference && referenceLogprobs) {
            kl +=
              weights[i] * addKl(estimator, turns, logprobs, referenceLogprobs, klCoefficient * weights[i], gradient);
          }
          if (hasEntropy && outputs[j].entropy) {
            for (const sum of turnSums(outputs[j].entropy, turns)) entropy += weights[i] * sum;
          }
          if (entropyCoefficient === 0) return { logprobs: gradient };
          const entropyGradient = new Float64Array(logprobs.length);
          for (const { start, end } of turns) entropyGradient.fill(-entropyCoefficient * weights[i], start, end);
          return { logprobs: gradient, entropy: entropyGradient };
        });
        return {
          value: metrics.pg_loss - entropyCoefficient * entropy + klCoefficient * kl,
          gradients,
          metrics: { ...metrics, ...(hasReference && { kl }), ...(hasEntropy && { entropy }) },
        };
      };
    },
  };
}

/** How many of a row's sampled tokens have another log-prob than when they were drawn, and the sum of their ratios − 1. */
function changeOf({ turns, oldLogprobs }: PolicyRow, logprobs: ArrayLike<number>): { tokens: number; excess: number } {
  const change = { tokens: 0, excess: 0 };
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) {
      const x = logprobs[t] - oldLogprobs[t];
      if (x === 0) continue;
      change.tokens++;
      change.excess += fastExp(Math.min(x, LARGEST_LOG_RATIO)) - 1;
    }
  }
  return change;
}

/** Defaults, verl's and the papers', and checks. */
function surrogateOptions(options: PolicyLossOptions): SurrogateOptions {
  const { clipLow = 0.2, clipHigh = 0.2, dualClip = 3, covShare = 2e-4, covLow = 1, covHigh = 5 } = options;
  const { covKl = 1, seed = 0 } = options;
  if (!(dualClip > 1)) throw new InputError(`policyLoss: dualClip must be greater than 1, not ${dualClip}`);
  if (!(clipLow >= 0 && clipHigh >= 0)) {
    throw new InputError(`policyLoss: clipLow and clipHigh must not be negative, are ${clipLow} and ${clipHigh}`);
  }
  if (!(covShare > 0 && covShare <= 1)) {
    throw new InputError(`policyLoss: covShare must lie above 0 and not above 1, is ${covShare}`);
  }
  return { clipLow, clipHigh, dualClip, covShare, covLow, covHigh, covKl, seed };
}
