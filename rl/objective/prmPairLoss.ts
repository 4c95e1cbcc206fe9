import { checkLengths, type Loss } from "./loss.js";
import { signAgreement } from "./metrics.js";
import { isLearnable, logisticLoss, type PrmRow, ratioSum } from "./prmLoss.js";

/** A row with the group that it is compared in. */
export interface PrmPairRow extends PrmRow {
  /** Rows with one group id are samples of one prompt; a mini-batch holds whole groups. */
  readonly group: number;
}

export interface PrmPairLossOptions {
  readonly beta: number;
  /** `dpo`; or best-of-n with the rank taken by label (`bon_acc`) or by score (`bon_rm`). */
  readonly form: "dpo" | "bon_acc" | "bon_rm";
}

/**
 * Losses of the implicit process reward model that compare the samples of a prompt (PRIME, arXiv 2502.01456). With
 * x_i = β·Σ_t (log π_φ(t) − log π_ref(t)), labels y, the group of i with n rows, and the siblings' x as constants:
 *
 *     o_i = mean of x_j over siblings with y_j < y_i if y_i > 0, with y_j > y_i else; 0 when there are none
 *     l_i = −ln σ( ±(x_i − o_i) ),  + if y_i > 0
 *     dpo      mean of l_i
 *     bon_acc  Σ_i l_i·n·(share of the group with y_j ≤ y_i)^(n−1)
 *     bon_rm   Σ_i l_i·n·(share of the group with x_j ≤ x_i)^(n−1)
 *
 * Labels must be hard: a soft one counts as right whenever it is above 0. Rows without sampled tokens or without a finite
 * label are left out. Metrics: `prm_loss`; `raw_reward` (Σ q) and `dpo_acc_abs` as means over the rows.
 */
export function prmPairLoss({ beta, form }: PrmPairLossOptions): Loss<PrmPairRow> {
  return {
    name: `prm_${form}`,
    scope: "batch",
    needs: { entropy: false, values: false },
    bind: (rows) => (outputs, indices) => {
      const members = indices
        .flatMap((i, j) => (isLearnable(rows[i]) ? [{ ...rows[i], j }] : []))
        .map((row) => {
          checkLengths("prmPairLoss", outputs[row.j], { referenceLogprobs: row.referenceLogprobs });
          const sum = ratioSum(row, outputs[row.j].logprobs);
          return { ...row, sum, x: beta * sum };
        });
      const gradients = indices.map((_, j) => ({ logprobs: new Float64Array(outputs[j].logprobs.length) }));
      const metrics = { prm_loss: 0, raw_reward: 0, dpo_acc_abs: 0 };
      for (const row of members) {
        const group = members.filter((other) => other.group === row.group);
        const isRight = row.label > 0;
        const others = group.filter(({ label }) => (isRight ? label < row.label : label > row.label));
        const other = others.length > 0 ? others.reduce((sum, { x }) => sum + x, 0) / others.length : 0;
        const weight = weights[form](row, group, members.length);
        const { value, derivative } = logisticLoss(row.x - other, isRight ? 1 : 0);
        metrics.prm_loss += weight * value;
        metrics.raw_reward += row.sum / members.length;
        if (signAgreement(row.sum, row.label)) metrics.dpo_acc_abs += 1 / members.length;
        for (const { start, end } of row.turns) {
          gradients[row.j].logprobs.fill(weight * beta * derivative, start, end);
        }
      }
      return { value: metrics.prm_loss, gradients, metrics };
    },
  };
}

interface Member {
  readonly label: number;
  readonly x: number;
}

/** The weight of a row's loss, from its group and the number of rows. */
const weights: Record<PrmPairLossOptions["form"], (row: Member, group: readonly Member[], rows: number) => number> = {
  dpo: (_, __, rows) => 1 / rows,
  bon_acc: (row, group) => bestOf(group, ({ label }) => label <= row.label),
  bon_rm: (row, group) => bestOf(group, ({ x }) => x <= row.x),
};

function bestOf(group: readonly Member[], isBelow: (member: Member) => boolean): number {
  return group.length * (group.filter(isBelow).length / group.length) ** (group.length - 1);
}
