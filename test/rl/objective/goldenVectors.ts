/** Every value and gradient of rl-golden.json as a case. */
import {
  type AdvantageOptions,
  assignCredit,
  type CreditOptions,
  estimateAdvantages,
  gae,
  klEstimators,
  lengthShares,
  logRatios,
  normItpoWeights,
  pairAccuracy,
  primeNorm,
  type RewardRow,
  type Rewards,
  reinforcePlusPlus,
  rloo,
  signAccuracy,
  tokenScores,
  turnRanges,
  turnSums,
  whiten,
} from "../../../rl/objective/index.js";
import { goldenLosses } from "./goldenLosses.js";
import { evaluate, golden } from "./support.js";
import { rewardRows, sampled, type Vector, vector } from "./vectors.js";

const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0);

/** What the reference calls the turn values; for PRIME it computes a softmax of sums that nothing reads. */
function turnValues(rows: readonly RewardRow[], estimator: string, temperature: number): Float64Array[] {
  if (estimator === "rloo_itpo") return rows.map(({ scores, turns }) => turnSums(scores ?? [], turns));
  return normItpoWeights(rows, { temperature, form: estimator === "rloo" ? "sum" : "mean" });
}

const itpo = golden.itpo_advantages.map((c): Vector => {
  const rows = c.response_mask.map(
    (mask, i): RewardRow => ({
      group: Math.floor(i / c.n_samples),
      tokens: mask.length,
      turns: turnRanges(mask),
      outcome: c.accuracy[i],
      lengthPenalty: c.token_amount?.[i] ?? 0,
      scores: Float64Array.from(c.rm_scores[i]),
    }),
  );
  const credit: CreditOptions = {
    method: ({ rloo_itponorm: "norm_itpo", rloo_itpo: "itpo", rloo: "prime" } as const)[c.estimator],
    temperature: c.temperature,
    coefficient: c.reward_dpo_coef,
    outcomeCoefficient: c.reward_gt_coef,
  };
  return vector(`itpo_advantages ${c.estimator} ${c.seed}`, () => {
    const { advantages, returns } = rloo(rows, assignCredit(rows, credit), {
      form: "reference",
      normalise: "whiten",
    });
    const shares = rows.map(({ turns }) => lengthShares(turns));
    return [...turnValues(rows, c.estimator, c.temperature), ...shares, ...returns, ...advantages];
  }, [...c.turn_values, ...c.token_proportions, ...c.returns, ...c.advantages]);
});

const implicit = golden.implicit_reward.flatMap((c, n): Vector[] => {
  const turns = c.response_mask.map(turnRanges);
  const totals = c.q.map((row, i) => sum(turnSums(row, turns[i])));
  const name = (what: string) => `implicit_reward ${n} ${what}`;
  return [
    vector(
      name("dpo_accuracy"),
      () => [
        [
          pairAccuracy(
            totals,
            c.scores,
            c.scores.map(() => 0),
          ),
        ],
      ],
      [[c.dpo_accuracy]],
    ),
    vector(name("dpo_abs_accuracy"), () => [[signAccuracy(totals, c.scores)]], [[c.dpo_abs_accuracy]]),
    vector(
      name("batch_norm_scores"),
      () =>
        primeNorm(
          c.q.map((row, i) =>
            tokenScores(
              logRatios(
                row,
                row.map(() => 0),
                turns[i],
              ),
              turns[i],
              { beta: 1 },
            ),
          ),
        ).scores,
      c.batch_norm_scores,
    ),
  ];
});

const policy = golden.policy.flatMap((c, n): Vector[] => {
  const turns = c.response_mask.map(turnRanges);
  const name = (what: string) => `policy ${n} ${what}`;
  const inTurns = (table: readonly ArrayLike<number>[]) => sampled(table, turns);

  const d = c.log_prob.map((row, i) => row.map((value, t) => value - c.ref_log_prob[i][t]));
  const kl = Object.entries({ kl: "k1", abs: "abs", mse: "k2", low_var_kl: "k3" } as const).map(
    ([theirs, ours]): Vector => {
      const { value, grad_sum } = c.kl[theirs as keyof typeof c.kl];
      const estimate = klEstimators[ours];
      return vector(
        name(`kl ${theirs}`),
        () => [
          ...d.map((row) => row.map(estimate.value)),
          ...d.map((row, i) => row.map((x, t) => c.response_mask[i][t] * estimate.derivative(x))),
        ],
        [...value, ...grad_sum],
        1e-9,
      );
    },
  );

  const totals = c.token_rewards.map(sum);
  const rows = rewardRows(c.response_mask, c.group_index, (i) => totals[i]);
  const shared = assignCredit(rows, { method: "shared" });
  const perToken: Rewards = {
    excluded: rows.map(() => undefined),
    rows: rows.map((row, i) => ({
      ...{ turns: new Float64Array(row.turns.length), conversation: 0 },
      tokens: Float64Array.from(c.token_rewards[i]),
    })),
  };
  const estimated = (theirs: "grpo" | "dr_grpo" | "rloo" | "reinforce_plus_plus_baseline", options: AdvantageOptions) =>
    vector(name(theirs), () => inTurns(estimateAdvantages(rows, shared, options).advantages), inTurns(c[theirs]));
  const streams = ({
    advantages,
    returns,
  }: {
    advantages: readonly ArrayLike<number>[];
    returns: readonly ArrayLike<number>[];
  }) => [...inTurns(advantages), ...inTurns(returns)];
  return [
    ...kl,
    vector(
      name("gae"),
      () => streams(gae(rows, perToken, c.values, { gamma: c.gae.gamma, lambda: c.gae.lam })),
      streams(c.gae),
    ),
    vector(name("gae_1_1"), () => streams(gae(rows, perToken, c.values)), streams(c.gae_1_1)),
    estimated("grpo", { estimator: "grpo" }),
    estimated("dr_grpo", { estimator: "dr_grpo" }),
    estimated("rloo", { estimator: "rloo", form: "row_total", normalise: "none" }),
    estimated("reinforce_plus_plus_baseline", { estimator: "reinforce_plus_plus_baseline" }),
    vector(
      name("reinforce_plus_plus"),
      () => streams(reinforcePlusPlus(rows, perToken, { gamma: c.reinforce_plus_plus.gamma, acrossTurns: false })),
      streams(c.reinforce_plus_plus),
    ),
    vector(
      name("masked_whiten"),
      () =>
        whiten(
          c.token_rewards.map((row) => Float64Array.from(row)),
          turns,
        ),
      c.masked_whiten,
    ),
  ];
});

const losses = goldenLosses.map(
  ({ name, loss, output, inputs, rows, value, metrics, gradients, tolerance }): Vector => {
    const outputs = inputs.map((row) => ({ logprobs: row, values: row }));
    const result = () => {
      const actual = evaluate(loss, rows(0), outputs);
      const named = Object.keys(metrics).map((metric) => actual.metrics[metric]);
      return [[actual.value, ...named], ...actual.gradients.map((row) => row[output] ?? [])];
    };
    return vector(name, result, [[value, ...Object.values(metrics)], ...gradients], tolerance);
  },
);

export const goldenVectors: readonly Vector[] = [...itpo, ...implicit, ...policy, ...losses];
