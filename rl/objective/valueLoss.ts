import { type Aggregation, aggregationWeights } from "./aggregation.js";
import { checkLengths, type Loss } from "./loss.js";
import type { TokenRange } from "./turns.js";

/** What the critic's loss needs of a row, [tokens] each. */
export interface ValueRow {
  readonly turns: readonly TokenRange[];
  /** Values before the update. */
  readonly oldValues: ArrayLike<number>;
  /** What the values learn: advantage + value of `gae`. */
  readonly returns: ArrayLike<number>;
}

export interface ValueLossOptions {
  /** A value may move by this much from its old one, in units of the reward. Default 0.5. */
  readonly clip?: number;
  /** Default `token-mean`. */
  readonly aggregation?: Aggregation;
  /** T of `seq-mean-token-sum-norm`. */
  readonly normLength?: number;
}

/**
 * The clipped squared error of a critic (PPO, arXiv 1707.06347; verl's `compute_value_loss`). Per sampled token, with
 * V' = clamp(V, V_old − clip, V_old + clip) and return G:
 *
 *     loss = ½·agg( max((V − G)², (V' − G)²) )        ∂/∂V = V − G, and 0 where the clipped term is the larger
 *
 * Metrics: `vf_loss`; `vf_clipfrac` (share of tokens whose clipped term is the larger) and `vpred_mean` as means over
 * the mini-batch's sampled tokens.
 */
export function valueLoss({
  clip = 0.5,
  aggregation = "token-mean",
  normLength,
}: ValueLossOptions = {}): Loss<ValueRow> {
  return {
    name: "value",
    scope: "token",
    needs: { entropy: false, values: true },
    bind(rows) {
      const ranges = rows.map(({ turns }) => turns);
      const weights = aggregationWeights(ranges, aggregation, normLength);
      const tokenWeights = aggregationWeights(ranges, "token-mean");
      return (outputs, indices) => {
        const metrics = { vf_loss: 0, vf_clipfrac: 0, vpred_mean: 0 };
        const gradients = indices.map((i, j) => {
          const { turns, oldValues, returns } = rows[i];
          const { values, logprobs } = outputs[j];
          if (!values) throw new Error("valueLoss: the outputs hold no values; give the learner a value head");
          checkLengths("valueLoss", outputs[j], { oldValues, returns, values });
          const gradient = new Float64Array(values.length);
          for (const { start, end } of turns) {
            for (let t = start; t < end; t++) {
              const bounded = Math.min(Math.max(values[t], oldValues[t] - clip), oldValues[t] + clip);
              const plain = (values[t] - returns[t]) ** 2;
              const clipped = (bounded - returns[t]) ** 2;
              metrics.vf_loss += (weights[i] * Math.max(plain, clipped)) / 2;
              metrics.vpred_mean += tokenWeights[i] * values[t];
              if (clipped > plain) metrics.vf_clipfrac += tokenWeights[i];
              else gradient[t] = weights[i] * (values[t] - returns[t]);
            }
          }
          return { logprobs: new Float64Array(logprobs.length), values: gradient };
        });
        return { value: metrics.vf_loss, gradients, metrics };
      };
    },
  };
}

/** 1 − var(G − V) / (var(G) + 1e-5) over the sampled tokens (`vf_explained_var`): 1 for a critic that knows the returns. */
export function explainedVariance(
  values: readonly ArrayLike<number>[],
  returns: readonly ArrayLike<number>[],
  turns: readonly (readonly TokenRange[])[],
): number {
  const sampled = (value: (i: number, t: number) => number) =>
    turns.flatMap((row, i) =>
      row.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, k) => value(i, start + k))),
    );
  const rest = variance(sampled((i, t) => returns[i][t] - values[i][t]));
  return 1 - rest / (variance(sampled((i, t) => returns[i][t])) + 1e-5);
}

/** With Bessel's correction; 0 of fewer than two. */
function variance(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1);
}
