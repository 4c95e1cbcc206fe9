import { readFileSync } from "node:fs";
import type { ExecutionContext } from "ava";
import { type Aggregation, type Loss, type Outputs, type RewardRow, turnRanges } from "../../../rl/objective/index.js";
import { fixture } from "../../support.js";

export type Matrix = number[][];

interface GoldenAdvantages {
  readonly seed: number;
  readonly estimator: "rloo_itponorm" | "rloo_itpo" | "rloo";
  readonly n_samples: number;
  readonly temperature: number;
  readonly reward_dpo_coef: number;
  readonly reward_gt_coef: number;
  readonly response_mask: Matrix;
  readonly rm_scores: Matrix;
  readonly accuracy: number[];
  readonly token_amount: number[] | null;
  readonly turn_values: Matrix;
  readonly token_proportions: Matrix;
  readonly advantages: Matrix;
  readonly returns: Matrix;
}

interface ValueAndGradient {
  readonly loss: number;
  readonly grad_q: Matrix;
}

interface GoldenReward {
  readonly q: Matrix;
  readonly response_mask: Matrix;
  readonly beta: number;
  readonly scores: number[];
  readonly binary_scores: number[];
  readonly ce_loss: number;
  readonly ce_grad_q: Matrix;
  readonly dpo_none: ValueAndGradient;
  readonly dpo_bon_acc: ValueAndGradient;
  readonly dpo_bon_rm: ValueAndGradient;
  readonly dpo_accuracy: number;
  readonly dpo_abs_accuracy: number;
  readonly batch_norm_scores: Matrix;
}

interface GoldenStreams {
  readonly advantages: Matrix;
  readonly returns: Matrix;
}

interface GoldenPolicy {
  readonly old_log_prob: Matrix;
  readonly log_prob: Matrix;
  readonly ref_log_prob: Matrix;
  readonly advantages: Matrix;
  readonly response_mask: Matrix;
  readonly vanilla: readonly {
    readonly agg: Aggregation;
    readonly clip_low: number;
    readonly clip_high: number;
    readonly clip_c: number;
    readonly loss: number;
    readonly clipfrac: number;
    readonly approx_kl: number;
    readonly clipfrac_lower: number;
    readonly grad_log_prob: Matrix;
  }[];
  readonly gspo: {
    readonly clip_low: number;
    readonly clip_high: number;
    readonly loss: number;
    readonly clipfrac: number;
    readonly grad_log_prob: Matrix;
  };
  readonly kl: Readonly<Record<"kl" | "abs" | "mse" | "low_var_kl", { value: Matrix; grad_sum: Matrix }>>;
  readonly values: Matrix;
  readonly vpreds: Matrix;
  readonly token_rewards: Matrix;
  readonly gae: GoldenStreams & { readonly gamma: number; readonly lam: number };
  readonly gae_1_1: GoldenStreams;
  readonly value_loss: {
    readonly returns: Matrix;
    readonly cliprange: number;
    readonly loss: number;
    readonly clipfrac: number;
    readonly grad_vpreds: Matrix;
  };
  readonly group_index: number[];
  readonly grpo: Matrix;
  readonly dr_grpo: Matrix;
  readonly rloo: Matrix;
  readonly reinforce_plus_plus_baseline: Matrix;
  readonly reinforce_plus_plus: GoldenStreams & { readonly gamma: number };
  readonly masked_whiten: Matrix;
}

/** Outputs of the reference implementation's own functions. */
export const golden = JSON.parse(readFileSync(fixture("rl-golden.json"), "utf8")) as {
  readonly itpo_advantages: readonly GoldenAdvantages[];
  readonly implicit_reward: readonly GoldenReward[];
  readonly policy: readonly GoldenPolicy[];
};

/** Two groups of two conversations, which the test vectors share. */
export const f1: readonly RewardRow[] = [
  [0, "1100111000", [0.1, 0.2, 0, 0, -0.3, 0.1, 0.05, 0, 0, 0], 1, -0.05] as const,
  [0, "1011010000", [0.4, 0, -0.1, -0.1, 0, 0.2, 0, 0, 0, 0], 0, -0.03] as const,
  [1, "1110001111", [-0.2, 0.1, 0.1, 0, 0, 0, 0.05, 0.05, 0.1, 0], 1, -0.04] as const,
  [1, "1111000000", [0.3, -0.1, 0.2, 0.1, 0, 0, 0, 0, 0, 0], 1, -0.02] as const,
].map(([group, mask, scores, outcome, lengthPenalty]) => ({
  group,
  tokens: 10,
  turns: turnRanges([...mask].map(Number)),
  scores: Float64Array.from(scores),
  outcome,
  lengthPenalty,
  judgeScores: [3, 1, 0, 2],
  values: Float64Array.from(mask, (bit, t) => 0.05 * t * Number(bit)),
}));

/** Asserts that two ragged tables of numbers agree within a tolerance; gives the number of entries compared. */
export function near(
  t: ExecutionContext,
  actual: readonly ArrayLike<number>[],
  expected: readonly ArrayLike<number>[],
  tolerance = 1e-5,
  message = "",
): number {
  t.is(actual.length, expected.length, `${message}: rows`);
  let count = 0;
  expected.forEach((row, i) => {
    t.is(actual[i].length, row.length, `${message}: length of row ${i}`);
    for (let j = 0; j < row.length; j++, count++) {
      const difference = Math.abs(actual[i][j] - row[j]);
      if (!(difference <= tolerance)) t.fail(`${message} [${i}][${j}]: ${actual[i][j]}, expected ${row[j]}`);
    }
  });
  return count;
}

/** `near` for single numbers. */
export function close(t: ExecutionContext, actual: number, expected: number, tolerance = 1e-5, message = ""): void {
  const right = Math.abs(actual - expected) <= tolerance * Math.max(1, Math.abs(expected));
  t.true(right, `${message}: ${actual}, expected ${expected}`);
}

/** Evaluates a loss on the whole mini-batch at once. */
export function evaluate<Row>(loss: Loss<Row>, rows: readonly Row[], outputs: readonly Outputs[]) {
  return loss.bind(rows)(outputs, [...rows.keys()]);
}

/** Asserts that every gradient of a loss equals its central difference. Gives the largest derivative seen. */
export function checkGradients<Row>(
  t: ExecutionContext,
  loss: Loss<Row>,
  rows: readonly Row[],
  outputs: readonly Outputs[],
  message = "",
): number {
  const step = 1e-5;
  const { gradients } = evaluate(loss, rows, outputs);
  let largest = 0;
  outputs.forEach((row, i) => {
    for (const name of ["logprobs", "entropy", "values"] as const) {
      const input = row[name];
      if (!input) continue;
      for (let at = 0; at < input.length; at++) {
        const value = (shift: number) => {
          const shifted = Float64Array.from(input);
          shifted[at] += shift;
          return evaluate(loss, rows, outputs.with(i, { ...row, [name]: shifted })).value;
        };
        const numeric = (value(step) - value(-step)) / (2 * step);
        const analytic = gradients[i][name]?.[at] ?? 0;
        close(t, analytic, numeric, 1e-7, `${loss.name} ${message}: ${name}[${i}][${at}]`);
        largest = Math.max(largest, Math.abs(analytic));
      }
    }
  });
  return largest;
}

/** A reproducible generator of uniform numbers in [0, 1). */
export function uniforms(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
