import { InputError } from "../../lib/errors.js";
import { type Aggregation, aggregationWeights } from "./aggregation.js";
import { addKl, type KlEstimator, klEstimators } from "./kl.js";
import { checkLengths, type Loss, type RowGradient } from "./loss.js";
import { type TokenRange, turnSums } from "./turns.js";

/** What the policy loss needs of a row, [tokens] each. */
export interface PolicyRow {
  readonly turns: readonly TokenRange[];
  /** Log-probs under the policy that sampled the row. */
  readonly oldLogprobs: ArrayLike<number>;
  readonly advantages: ArrayLike<number>;
  /** Log-probs under the frozen reference; needed when there is a KL term, measured (`kl`) whenever present. */
  readonly referenceLogprobs?: ArrayLike<number>;
}

export interface PolicyLossOptions {
  /** The ratio is clipped to [1 − clipLow, 1 + clipHigh]. Default 0.2 each. */
  readonly clipLow?: number;
  readonly clipHigh?: number;
  /** c > 1: a negative advantage costs at most c times its size. Default 3. */
  readonly dualClip?: number;
  /** Default `token-mean`. */
  readonly aggregation?: Aggregation;
  /** T of `seq-mean-token-sum-norm`. */
  readonly normLength?: number;
  /** KL penalty to the reference. Default none; default estimator `k3`. */
  readonly kl?: { readonly coefficient: number; readonly estimator?: KlEstimator };
  /** Bonus on the entropy. Default 0. */
  readonly entropyCoefficient?: number;
}

/** Log-ratios are clamped to ±20 before the exponential. */
const LARGEST_LOG_RATIO = 20;

/**
 * Clipped policy gradient of PPO with dual clip (arXiv 1912.09729) and separate clip ranges (DAPO, arXiv 2503.14476),
 * minus an entropy bonus, plus a KL penalty. Per sampled token, with x = log π − log π_old clamped to ±20:
 *
 *     L1 = −A·e^x    L2 = −A·clamp(e^x, 1−clipLow, 1+clipHigh)    L = max(L1, L2), and at most −A·dualClip where A < 0
 *     loss = agg(L) − entropyCoefficient·agg(entropy) + kl.coefficient·agg(KL)
 *
 * Metrics, over the mini-batch: `pg_loss`, `kl`, `entropy` aggregated like the loss; `ppo_kl` (−x), `clipfrac` (share
 * with L2 > L1) and `clipfrac_lower` (share where the dual clip binds) as means over its sampled tokens.
 */
export function policyLoss(options: PolicyLossOptions = {}): Loss<PolicyRow> {
  const { clipLow = 0.2, clipHigh = 0.2, dualClip = 3, kl, entropyCoefficient = 0 } = options;
  const { aggregation = "token-mean", normLength } = options;
  if (!(dualClip > 1)) throw new InputError(`policyLoss: dualClip must be greater than 1, not ${dualClip}`);
  if (!(clipLow >= 0 && clipHigh >= 0)) {
    throw new InputError(`policyLoss: clipLow and clipHigh must not be negative, are ${clipLow} and ${clipHigh}`);
  }
  const clip = { low: clipLow, high: clipHigh, dual: dualClip };
  const klCoefficient = kl?.coefficient ?? 0;
  const estimator = klEstimators[kl?.estimator ?? "k3"];

  return {
    name: "policy",
    scope: "token",
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
        const metrics = { pg_loss: 0, ppo_kl: 0, clipfrac: 0, clipfrac_lower: 0 };
        let kl = 0;
        let entropy = 0;
        const gradients = indices.map((i, j): RowGradient => {
          const { turns, oldLogprobs, advantages, referenceLogprobs } = rows[i];
          const { logprobs } = outputs[j];
          checkLengths("policyLoss", outputs[j], { oldLogprobs, advantages, referenceLogprobs });
          const gradient = new Float64Array(logprobs.length);
          const row = addClipped(rows[i], logprobs, clip, weights[i], gradient);
          metrics.pg_loss += weights[i] * row.loss;
          metrics.ppo_kl -= tokenWeights[i] * row.logRatio;
          metrics.clipfrac += tokenWeights[i] * row.clipped;
          metrics.clipfrac_lower += tokenWeights[i] * row.capped;
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

interface Clip {
  readonly low: number;
  readonly high: number;
  readonly dual: number;
}

/** Sums over a row's sampled tokens; adds `weight` times each token's derivative to `gradient`. */
function addClipped(
  { turns, oldLogprobs, advantages }: PolicyRow,
  logprobs: ArrayLike<number>,
  clip: Clip,
  weight: number,
  gradient: Float64Array,
) {
  let loss = 0;
  let logRatio = 0;
  let clippedCount = 0;
  let cappedCount = 0;
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) {
      const advantage = advantages[t];
      const difference = logprobs[t] - oldLogprobs[t];
      const x = Math.min(Math.max(difference, -LARGEST_LOG_RATIO), LARGEST_LOG_RATIO);
      const ratio = Math.exp(x);
      const unclipped = -advantage * ratio;
      const clipped = -advantage * Math.min(Math.max(ratio, 1 - clip.low), 1 + clip.high);
      const larger = Math.max(unclipped, clipped);
      const cap = -advantage * clip.dual;
      const capped = advantage < 0 && larger > cap;
      loss += capped ? cap : larger;
      logRatio += x;
      if (clipped > unclipped) clippedCount++;
      if (capped) cappedCount++;
      else if (clipped <= unclipped && x === difference) gradient[t] += weight * unclipped;
    }
  }
  return { loss, logRatio, clipped: clippedCount, capped: cappedCount };
}
