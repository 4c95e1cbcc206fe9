import { countTokens } from "../turns.js";
import type { Surrogate } from "./surrogate.js";

/** The log of the sequence ratio is clamped here, and flat above. */
const LARGEST_LOG_RATIO = 10;

/**
 * GSPO in its token form (arXiv 2507.18071): one ratio a row, the geometric mean of its tokens' ratios. With
 * s = exp(mean of log π − log π_old over the row's sampled tokens), its logarithm at most 10:
 *
 *     L[t] = max(−A[t]·s, −A[t]·clamp(s, 1−clipLow, 1+clipHigh))        ∂L/∂log π(t) = −A[t]·s where not clipped
 *
 * The derivative is the paper's, in which s stands for token t's own ratio; where the advantages of a row are equal it is
 * that of the row's loss. Always the mean over rows of the row's mean.
 */
export const gspo: Surrogate = {
  scope: "row",
  aggregation: "seq-mean-token-mean",
  prepare:
    ({ clipLow, clipHigh }) =>
    ({ turns, oldLogprobs, advantages, importance }, logprobs, weight, gradient) => {
      let logRatio = 0;
      for (const { start, end } of turns) {
        for (let t = start; t < end; t++) logRatio += logprobs[t] - oldLogprobs[t];
      }
      const mean = logRatio / Math.max(1, countTokens(turns));
      const ratio = Math.exp(Math.min(mean, LARGEST_LOG_RATIO));
      const bounded = Math.min(Math.max(ratio, 1 - clipLow), 1 + clipHigh);
      let loss = 0;
      let clipped = 0;
      for (const { start, end } of turns) {
        for (let t = start; t < end; t++) {
          const share = importance ? importance[t] : 1;
          const plain = -advantages[t] * ratio;
          const other = -advantages[t] * bounded;
          loss += share * Math.max(plain, other);
          if (other > plain) clipped++;
          else if (mean <= LARGEST_LOG_RATIO) gradient[t] += weight * share * plain;
        }
      }
      return { loss, logRatio, clipped, capped: 0 };
    },
};
