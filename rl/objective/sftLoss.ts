import { checkLengths, type Loss } from "./loss.js";

/** What supervised fine-tuning needs of a row. */
export interface SftRow {
  /** Weight of each token's log-prob, [tokens]; 0 for what is not to be learned. Entry 0 is not used. */
  readonly weights: ArrayLike<number>;
}

/**
 * Cross-entropy on given tokens: −Σ weight·logprob / Σ |weight| over the mini-batch. Metric: `sft_loss`.
 */
export function sftLoss(): Loss<SftRow> {
  return {
    name: "sft",
    scope: "token",
    needs: { entropy: false, values: false },
    bind(rows) {
      let total = 0;
      for (const { weights } of rows) {
        for (let t = 1; t < weights.length; t++) total += Math.abs(weights[t]);
      }
      const scale = total > 0 ? 1 / total : 0;
      return (outputs, indices) => {
        let value = 0;
        const gradients = indices.map((i, j) => {
          const { weights } = rows[i];
          const { logprobs } = outputs[j];
          checkLengths("sftLoss", outputs[j], { weights });
          const gradient = new Float64Array(weights.length);
          for (let t = 1; t < weights.length; t++) {
            if (weights[t] === 0) continue;
            gradient[t] = -weights[t] * scale;
            value += gradient[t] * logprobs[t];
          }
          return { logprobs: gradient };
        });
        return { value, gradients, metrics: { sft_loss: value } };
      };
    },
  };
}
