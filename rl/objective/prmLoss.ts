import { checkLengths, type Loss } from "./loss.js";
import { signAgreement } from "./metrics.js";
import type { TokenRange } from "./turns.js";

/** What the process reward model's loss needs of a row. */
export interface PrmRow {
  readonly turns: readonly TokenRange[];
  /** Log-probs under the model's frozen reference, [tokens]. */
  readonly referenceLogprobs: ArrayLike<number>;
  /** The outcome to predict, in [0, 1]; hard or soft. */
  readonly label: number;
}

export interface PrmLossOptions {
  /** β of the implicit reward. */
  readonly beta: number;
  /**
   * As the reference implementation: a float32 sigmoid, logarithms clamped at −100, and a gradient that vanishes once
   * the sigmoid saturates (x above 16.7, below about −28). Default false: exact everywhere.
   */
  readonly reference?: boolean;
}

/**
 * Cross-entropy of the implicit process reward model on the outcome (ITPO, arXiv 2603.23550), in logits form. With
 * x = β·Σ_t (log π_φ(t) − log π_ref(t)) over the row's sampled tokens and label y:
 *
 *     loss = mean over rows of softplus(x) − y·x        ∂loss/∂logprob[t] = β·(σ(x) − y) / rows
 *
 * Rows without sampled tokens or without a finite label are left out of the mean. Metrics, as means over the rows:
 * `prm_loss`, `raw_reward` (Σ q, without β) and `dpo_acc_abs` (the sign of x agrees with the label).
 */
export function prmLoss({ beta, reference = false }: PrmLossOptions): Loss<PrmRow> {
  const crossEntropy = reference ? saturatingCrossEntropy : logisticLoss;
  return {
    name: "prm",
    scope: "row",
    needs: { entropy: false, values: false },
    bind(rows) {
      const counts = rows.map(isLearnable);
      const weight = 1 / counts.filter(Boolean).length;
      return (outputs, indices) => {
        const metrics = { prm_loss: 0, raw_reward: 0, dpo_acc_abs: 0 };
        const gradients = indices.map((i, j) => {
          const { turns, referenceLogprobs, label } = rows[i];
          const { logprobs } = outputs[j];
          checkLengths("prmLoss", outputs[j], { referenceLogprobs });
          const gradient = new Float64Array(logprobs.length);
          if (!counts[i]) return { logprobs: gradient };
          const sum = ratioSum(rows[i], logprobs);
          const { value, derivative } = crossEntropy(beta * sum, label);
          metrics.prm_loss += weight * value;
          metrics.raw_reward += weight * sum;
          if (signAgreement(sum, label)) metrics.dpo_acc_abs += weight;
          for (const { start, end } of turns) gradient.fill(weight * beta * derivative, start, end);
          return { logprobs: gradient };
        });
        return { value: metrics.prm_loss, gradients, metrics };
      };
    },
  };
}

/** Whether a row can be learned from: it has sampled tokens and a label. */
export function isLearnable({ turns, label }: Pick<PrmRow, "turns" | "label">): boolean {
  return turns.length > 0 && Number.isFinite(label);
}

/** Σ_t (log π_φ(t) − log π_ref(t)) over the row's sampled tokens, in nats. */
export function ratioSum({ turns, referenceLogprobs }: PrmRow, logprobs: ArrayLike<number>): number {
  let sum = 0;
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) sum += logprobs[t] - referenceLogprobs[t];
  }
  return sum;
}

/** −[y·ln σ(x) + (1−y)·ln(1−σ(x))] and its derivative by x, without overflow or cancellation. */
export function logisticLoss(x: number, y: number) {
  const e = Math.exp(-Math.abs(x));
  const sigmoid = x >= 0 ? 1 / (1 + e) : e / (1 + e);
  return { value: Math.max(x, 0) + Math.log1p(e) - y * x, derivative: sigmoid - y };
}

/** The same as float32 arithmetic on probabilities gives it. */
function saturatingCrossEntropy(x: number, y: number) {
  const p = Math.fround(1 / Math.fround(1 + Math.fround(Math.exp(-x))));
  const value = -(y * Math.max(Math.log(p), -100) + (1 - y) * Math.max(Math.log(1 - p), -100));
  const slope = p * (1 - p);
  return { value, derivative: ((p - y) / Math.max(slope, 1e-12)) * slope };
}
