/** The losses of rl-golden.json with the reference's values and gradients, to be fed from the host or from tensors. */
import {
  type Loss,
  type PolicyRow,
  type PrmPairRow,
  policyLoss,
  prmLoss,
  prmPairLoss,
  type TokenRange,
  turnRanges,
  type ValueRow,
  valueLoss,
} from "../../../rl/objective/index.js";
import { golden, type Matrix } from "./support.js";

type Row = PolicyRow & PrmPairRow & ValueRow;

/** One case: a loss, its rows and its inputs, and what the reference computes. */
export interface GoldenLoss {
  readonly name: string;
  readonly loss: Loss<Row>;
  /** Which of the model's outputs the loss reads. */
  readonly output: "logprobs" | "values";
  /** That output, [rows, tokens]. Log-probs may be positive here. */
  readonly inputs: Matrix;
  /** The rows with all their log-probs lowered by `shift`, which changes no loss if `inputs` are lowered too. */
  readonly rows: (shift: number) => Row[];
  readonly value: number;
  readonly metrics: Readonly<Record<string, number>>;
  /** By the inputs, [rows, tokens]. */
  readonly gradients: Matrix;
  readonly tolerance: number;
}

/** Rows of which a loss uses the parts that it needs. */
function rowsOf(masks: Matrix, own: (i: number) => Partial<Omit<Row, "turns">>): GoldenLoss["rows"] {
  return (shift) =>
    masks.map((mask, i): Row => {
      const zeros = mask.map(() => 0);
      const { oldLogprobs = zeros, referenceLogprobs = zeros, ...rest } = own(i);
      const lowered = (values: ArrayLike<number>) => Array.from(values, (value) => value - shift);
      return {
        ...{ turns: turnRanges(mask) as readonly TokenRange[], advantages: zeros, label: 0, group: 0 },
        ...{ oldValues: zeros, returns: zeros },
        ...rest,
        oldLogprobs: lowered(oldLogprobs),
        referenceLogprobs: lowered(referenceLogprobs),
      };
    });
}

const implicit = golden.implicit_reward.flatMap((c, n): GoldenLoss[] => {
  const labelled = (labels: readonly number[]) => rowsOf(c.response_mask, (i) => ({ label: labels[i] }));
  const common = { output: "logprobs", inputs: c.q, metrics: {} } as const;
  const soft = {
    ...common,
    rows: labelled(c.scores),
    ...{ value: c.ce_loss, gradients: c.ce_grad_q, tolerance: 1e-6 },
  };
  const pairs = { dpo: c.dpo_none, bon_acc: c.dpo_bon_acc, bon_rm: c.dpo_bon_rm } as const;
  return [
    { ...soft, name: `implicit_reward ${n} ce`, loss: prmLoss({ beta: c.beta }) },
    { ...soft, name: `implicit_reward ${n} ce as float32`, loss: prmLoss({ beta: c.beta, reference: true }) },
    ...Object.entries(pairs).map(
      ([form, { loss, grad_q }]): GoldenLoss => ({
        ...common,
        name: `implicit_reward ${n} ${form}`,
        loss: prmPairLoss({ beta: c.beta, form: form as keyof typeof pairs }),
        rows: labelled(c.binary_scores),
        ...{ value: loss, gradients: grad_q, tolerance: 1e-9 },
      }),
    ),
  ];
});

const policy = golden.policy.flatMap((c, n): GoldenLoss[] => {
  const rows = rowsOf(c.response_mask, (i) => ({ oldLogprobs: c.old_log_prob[i], advantages: c.advantages[i] }));
  const common = { output: "logprobs", inputs: c.log_prob, rows, tolerance: 1e-6 } as const;
  return [
    ...c.vanilla.map(
      (v): GoldenLoss => ({
        ...common,
        name: `policy ${n} vanilla ${v.agg} ${v.clip_high}`,
        loss: policyLoss({
          ...{ aggregation: v.agg, clipLow: v.clip_low, clipHigh: v.clip_high, dualClip: v.clip_c },
          normLength: c.response_mask[0].length,
        }),
        value: v.loss,
        metrics: { clipfrac: v.clipfrac, ppo_kl: v.approx_kl, clipfrac_lower: v.clipfrac_lower },
        gradients: v.grad_log_prob,
      }),
    ),
    {
      ...common,
      name: `policy ${n} gspo`,
      loss: policyLoss({ loss: "gspo", clipLow: c.gspo.clip_low, clipHigh: c.gspo.clip_high }),
      ...{ value: c.gspo.loss, metrics: { clipfrac: c.gspo.clipfrac }, gradients: c.gspo.grad_log_prob },
    },
    {
      name: `policy ${n} value_loss`,
      loss: valueLoss({ clip: c.value_loss.cliprange }),
      output: "values",
      inputs: c.vpreds,
      rows: rowsOf(c.response_mask, (i) => ({ oldValues: c.values[i], returns: c.value_loss.returns[i] })),
      ...{ value: c.value_loss.loss, metrics: { vf_clipfrac: c.value_loss.clipfrac } },
      ...{ gradients: c.value_loss.grad_vpreds, tolerance: 1e-5 },
    },
  ];
});

/** The KL term alone, as a mean over rows of sums over tokens; the reference has its sums. */
const divergence = golden.policy.flatMap((c, n): GoldenLoss[] =>
  Object.entries({ kl: "k1", abs: "abs", mse: "k2", low_var_kl: "k3" } as const).map(([theirs, estimator]) => {
    const { value, grad_sum } = c.kl[theirs as keyof typeof c.kl];
    const sampled = (table: Matrix) => table.map((row, i) => row.map((x, t) => x * c.response_mask[i][t]));
    const mean = (table: Matrix) => table.map((row) => row.map((x) => x / table.length));
    return {
      name: `policy ${n} kl ${theirs}`,
      loss: policyLoss({ aggregation: "seq-mean-token-sum", kl: { coefficient: 1, estimator } }),
      ...{ output: "logprobs", inputs: c.log_prob, tolerance: 1e-6 },
      rows: rowsOf(c.response_mask, (i) => ({
        oldLogprobs: c.log_prob[i],
        referenceLogprobs: c.ref_log_prob[i],
      })),
      value: mean(sampled(value))
        .flat()
        .reduce((a, b) => a + b, 0),
      ...{ metrics: {}, gradients: mean(sampled(grad_sum)) },
    };
  }),
);

export const goldenLosses = [...implicit, ...policy];
export const goldenDivergences = divergence;
