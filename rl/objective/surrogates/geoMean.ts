import { countTokens } from "../turns.js";
import type { Surrogate } from "./surrogate.js";

/** No ratio above e^20. */
const LARGEST_LOG_RATIO = 20;

/**
 * Geometric-mean policy optimisation (GMPO, arXiv 2507.20673): one ratio a row, the geometric mean of token ratios that
 * are each clipped to [e^−clipLow, e^clipHigh] on the side on which the token's advantage pushes. With x = log π − log
 * π_old and c[t] its clipped form, N the row's sampled tokens:
 *
 *     row loss = −mean(A)·exp(mean of c)        ∂/∂log π(t) = row loss / N where c[t] = x[t]
 *
 * Always the mean over rows. A correction for the sampler enters as its geometric mean over the row.
 */
export const geoMean: Surrogate = {
  scope: "row",
  aggregation: "seq-mean-token-mean",
  prepare:
    ({ clipLow, clipHigh }) =>
    ({ turns, oldLogprobs, advantages, importance }, logprobs, weight, gradient) => {
      const count = countTokens(turns);
      const sums = { logRatio: 0, clipped: 0, capped: 0 };
      if (count === 0) return { ...sums, loss: 0 };
      let [exponent, advantage, logImportance] = [0, 0, 0];
      const free: number[] = [];
      for (const { start, end } of turns) {
        for (let t = start; t < end; t++) {
          const difference = logprobs[t] - oldLogprobs[t];
          const x = Math.min(Math.max(difference, -LARGEST_LOG_RATIO), LARGEST_LOG_RATIO);
          const bounded = Math.min(Math.max(x, -clipLow), clipHigh);
          const sign = Math.sign(advantages[t]);
          const taken = sign * Math.min(sign * x, sign * bounded);
          exponent += taken;
          advantage += advantages[t];
          if (importance) logImportance += Math.log(importance[t] + 1e-10);
          sums.logRatio += x;
          if (x !== bounded && sign > 0) sums.clipped++;
          if (x !== bounded && sign < 0) sums.capped++;
          if (sign !== 0 && taken === difference) free.push(t);
        }
      }
      const rowLoss = (-advantage / count) * Math.exp((exponent + logImportance) / count);
      // The aggregation divides by the number of tokens.
      for (const t of free) gradient[t] += weight * rowLoss;
      return { ...sums, loss: rowLoss * count };
    },
};
