/** The specification's test vectors of the objective, TV-1 to TV-27 and TV-30, by number. */
import { logprobOf, rowStatistics } from "../../../lib/logits.js";
import {
  type AdvantageOptions,
  type Advantages,
  aggregationWeights,
  assignCredit,
  type CreditOptions,
  estimateAdvantages,
  gae,
  klEstimators,
  lengthShares,
  nextKlCoefficient,
  normItpoWeights,
  type PolicyRow,
  pairAccuracy,
  policyLoss,
  primeNorm,
  prmLoss,
  prmPairLoss,
  type RewardRow,
  type Rewards,
  reinforcePlusPlus,
  remax,
  rloo,
  signAccuracy,
  tokenScores,
  turnRanges,
  turnRewards,
  turnStatistics,
  turnSums,
  valueLoss,
  whiten,
} from "../../../rl/objective/index.js";
import { evaluate, f1 } from "./support.js";
import { atTurns, sampled, type Table, type Vector, vector } from "./vectors.js";

const reference = { form: "reference", normalise: "whiten" } as const;
const turnsOfF1 = f1.map(({ turns }) => turns);

function byReference(credit: CreditOptions, rows = f1): Advantages {
  return rloo(rows, assignCredit(rows, credit), reference);
}

/** Returns, then advantages, at the first token of every turn. */
function streams({ returns, advantages }: Advantages): number[][] {
  return [...atTurns(returns, f1), ...atTurns(advantages, f1)];
}

/** Rows whose only reward stands on given tokens. */
function tokenRows(masks: number[][], rewards: number[][], groups = masks.map((_, i) => i)) {
  const rows = masks.map(
    (mask, i): RewardRow => ({ group: groups[i], tokens: mask.length, turns: turnRanges(mask), outcome: 0 }),
  );
  const given: Rewards = {
    excluded: rows.map(() => undefined),
    rows: rewards.map((tokens, i) => ({
      ...{ turns: new Float64Array(rows[i].turns.length), conversation: 0 },
      tokens: Float64Array.from(tokens),
    })),
  };
  return { rows, rewards: given };
}

const credit: Vector[] = [
  vector(
    "TV-1 turns",
    () => [...f1.map(({ turns }) => turns.map(({ end }) => end - 1)), ...f1.map(({ turns }) => lengthShares(turns))],
    [[1, 6], [0, 3, 5], [2, 9], [3], [0.4, 0.6], [0.25, 0.5, 0.25], [0.4285714, 0.5714286], [1]],
  ),
  vector("TV-2 Norm-ITPO weights, τ 0.4", () => normItpoWeights(f1, { temperature: 0.4 }), [
    [0.7772999, 0.2227001],
    [0.7516301, 0.0330243, 0.2153456],
    [0.4225046, 0.5774953],
    [1],
  ]),
  vector("TV-2 Norm-ITPO weights, τ 0.7", () => normItpoWeights(f1, { temperature: 0.7 }), [
    [0.6713474, 0.3286525],
    [0.6034206, 0.1011799, 0.2953995],
    [0.4554754, 0.5445246],
    [1],
  ]),
  vector("TV-3 softmax of sums", () => normItpoWeights(f1, { temperature: 0.4, form: "sum" }), [
    [0.754915, 0.245085],
    [0.5465494, 0.1219517, 0.331499],
    [0.3775407, 0.6224594],
    [1],
  ]),
  vector("TV-4 ITPO sums", () => f1.map(({ scores, turns }) => turnSums(scores ?? [], turns)), [
    [0.3, -0.15],
    [0.4, -0.2, 0.2],
    [0, 0.2],
    [0.5],
  ]),
  vector("TV-5 Norm-ITPO turn rewards and their masked RLOO", () => {
    const rewards = assignCredit(f1, { method: "norm_itpo" });
    const { returns } = rloo(f1, rewards, { form: "reference", normalise: "none" });
    const toGo = atTurns(returns, f1);
    return [...turnRewards(f1, rewards), ...toGo.map((row) => row.map((value, k) => value - (row[k + 1] ?? 0)))];
  }, [
    ...[[0.7572999, 0.1927001], [-0.0075, -0.015, -0.0075], [0.4053618, 0.5546382], [0.98]],
    ...[[1.0495998, -0.0795997], [-0.48, -0.495, -0.48], [-0.6492765, -0.3507236], [0.5]],
  ]),
];

const rlooOfReference: Vector[] = [
  vector("TV-6 Norm-ITPO, coefficient 5", () => streams(byReference({ method: "norm_itpo", coefficient: 5 })), [
    ...[[4.85, -0.3979987], [-7.275, -4.875, -2.4], [-5, -1.7536181], [2.5]],
    ...[[1.6881709, 0.2107653], [-1.7252338, -1.0495906, -0.3528339], [-1.0847805, -0.1708658], [1.0266038]],
  ]),
  vector(
    "TV-6 Norm-ITPO, coefficient 15",
    () => byReference({ method: "norm_itpo", coefficient: 15 }).advantages,
    byReference({ method: "norm_itpo", coefficient: 5 }).advantages,
    1e-6,
  ),
  vector("TV-7 ITPO, coefficient 5", () => streams(byReference({ method: "itpo", coefficient: 5 })), [
    ...[[-0.7333336, -2.666667], [1.1, -1.9583334, 1.0583333], [-4, -1.0285718], [2]],
    ...[[0.1125013, -0.8184652], [0.9953146, -0.4773782, 0.9752507], [-1.4605114, -0.029666], [1.4286957]],
  ]),
  vector("TV-8 shared outcome, coefficient 5", () => streams(byReference({ method: "shared", coefficient: 5 })), [
    ...[[4.9, 4.9], [-4.9, -4.9, -4.9], [-0.1, -0.1], [0.1]],
    ...[[1.3878133, 1.3878133], [-1.5245143, -1.5245143, -1.5245143], [-0.0980682, -0.0980682], [-0.0386329]],
  ]),
  vector(
    "TV-9 ITPO and the outcome, 5 and 5",
    () => streams(byReference({ method: "itpo", coefficient: 5, outcomeCoefficient: 5 })),
    [
      ...[[4.166666, 2.2333326], [-3.8, -6.8583336, -3.8416667], [-4.1000013, -1.1285723], [2.1]],
      ...[[1.3935438, 0.8441173], [-0.8704721, -1.739608, -0.8823133], [-0.9557284, -0.1112894], [0.8062261]],
    ],
  ),
  vector("TV-10 PRIME tokens, coefficient 5", () => {
    const { returns, advantages } = byReference({ method: "prime", coefficient: 5 });
    return sampled([returns[0], advantages[0]], [f1[0].turns, f1[0].turns]);
  }, [
    [-1.9, -2.25, -3.575, 0.0749999, -0.275],
    [-0.8641446, -1.0936463, -1.9624746, 0.4309014, 0.2013996],
  ]),
  vector("TV-11 a row without turns: weights of the others, advantage 0 for it, finite everywhere", () => {
    const rows = f1.with(1, { ...f1[1], turns: [] });
    const { weights = [] } = assignCredit(rows, { method: "norm_itpo" });
    const { advantages } = byReference({ method: "norm_itpo" }, rows);
    return [...weights, advantages[1], advantages.map((row) => Number(row.every(Number.isFinite)))];
  }, [[0.8320184, 0.1679816], [], [0.4013123, 0.5986877], [1], Array(10).fill(0), [1, 1, 1, 1]]),
  vector("TV-12 turn-count bias: the reference's returns, and 0 at the first turns of the corrected form", () => {
    const masks = [
      [1, 0, 0, 0, 0],
      [1, 0, 1, 0, 1],
    ];
    const rows = masks.map((mask) => ({ group: 0, tokens: 5, turns: turnRanges(mask), outcome: 1 }));
    const of = (form: "reference" | "turn_index") =>
      atTurns(rloo(rows, assignCredit(rows, { method: "uniform" }), { form, normalise: "none" }).advantages, rows);
    return [...of("reference"), of("turn_index").map(([first]) => first)];
  }, [[2 / 3], [-2, -4 / 3, -2 / 3], [0, 0]]),
];

const prm = ({ q, masks, labels }: { q: number[][]; masks: number[][]; labels: number[] }) => ({
  rows: masks.map((mask, i) => ({
    ...{ turns: turnRanges(mask), label: labels[i], group: 0 },
    referenceLogprobs: mask.map(() => 0),
  })),
  outputs: q.map((logprobs) => ({ logprobs })),
});
const three = prm({
  q: [
    [1, 2, 3],
    [-4, 0, 1],
    [100, 100, 0],
  ],
  masks: [
    [1, 1, 0],
    [1, 0, 1],
    [1, 1, 0],
  ],
  labels: [1, 0, 0.25],
});
const single = (x: number, y: number, reference = false) => {
  const { rows, outputs } = prm({ q: [[x]], masks: [[1]], labels: [y] });
  const { value, gradients } = evaluate(prmLoss({ beta: 1, reference }), rows, outputs);
  return [value, gradients[0].logprobs[0]];
};
const sums = [3, -3, 20, 5];
const hard = prm({ q: sums.map((q) => [q]), masks: sums.map(() => [1]), labels: [1, 0, 1, 0] });
const pairLoss = (form: "dpo" | "bon_acc" | "bon_rm") =>
  evaluate(prmPairLoss({ beta: 0.05, form }), hard.rows, hard.outputs).value;

const rewardModel: Vector[] = [
  vector("TV-13 turn metrics", () => {
    const { sum, mean, variance } = turnStatistics(f1.map(({ scores, turns }) => turnSums(scores ?? [], turns)));
    return [[sum, mean, variance]];
  }, [[0.3125, 0.2020833, 0.0307118]]),
  vector(
    "TV-14 prime_norm",
    () => {
      const { scores, divisor } = primeNorm([Float64Array.of(0.1, -0.2, 0.3), Float64Array.of(0.5, 0.5, -0.1)]);
      return [[divisor], ...scores];
    },
    [[0.900001], [0.111111, -0.222222, 0.333333], [0.5555549, 0.5555549, -0.111111]],
    1e-6,
  ),
  vector(
    "TV-15 λ recursion",
    () => [tokenScores(Float64Array.of(0.1, 0.2, 0.3), [{ start: 0, end: 3 }], { beta: 0.5, lambda: 0.9 })],
    [[0.2615, 0.235, 0.15]],
  ),
  vector(
    "TV-16 cross-entropy",
    () => {
      const value = (beta: number) => evaluate(prmLoss({ beta }), three.rows, three.outputs).value;
      const losses = three.rows.map((row, i) => evaluate(prmLoss({ beta: 0.05 }), [row], [three.outputs[i]]).value);
      const saturated = prm({ q: [[3000]], masks: [[1]], labels: [0] });
      return [
        losses,
        [value(0.05), value(0.5)],
        [evaluate(prmLoss({ beta: 0.05, reference: true }), saturated.rows, saturated.outputs).value],
        evaluate(prmLoss({ beta: 0.05 }), [three.rows[0]], [three.outputs[0]]).gradients[0].logprobs,
      ];
    },
    // The reference rounds the third row to 7.4997010 in float32; exactly it is 7.5000454.
    [
      [0.6209571, 0.6209571, 7.5000454],
      [(0.6209571 * 2 + 7.5000454) / 3, 25.1342754],
      [100],
      [-0.0231285, -0.0231285, 0],
    ],
  ),
  vector("TV-16 cross-entropy as the reference", () => {
    const loss = prmLoss({ beta: 0.05, reference: true });
    const losses = three.rows.map((row, i) => evaluate(loss, [row], [three.outputs[i]]).value);
    return [losses, [evaluate(loss, three.rows, three.outputs).value]];
  }, [[0.6209571, 0.6209571, 7.499701], [2.9138718]]),
  vector(
    "TV-16b saturation, exact",
    () => [single(15, 0), single(17, 0), single(-80, 1), single(-90, 1), single(17, 0.3)],
    [
      [15, 1],
      [17, 1],
      [80, -1],
      [90, -1],
      [11.9, 0.7],
    ],
  ),
  vector(
    "TV-16b saturation as the reference",
    () => [single(15, 0, true), single(17, 0, true), single(-80, 1, true), single(-90, 1, true), single(17, 0.3, true)],
    [
      [14.8437729, 1],
      [100, 0],
      [80, 0],
      [100, 0],
      [70, 0],
    ],
  ),
  vector(
    "TV-17 DPO, best of n and accuracies",
    () => [
      [pairLoss("dpo"), pairLoss("bon_acc"), pairLoss("bon_rm")],
      [
        pairAccuracy(sums, [1, 0, 1, 0], [0, 0, 0, 0]),
        pairAccuracy(sums, [0.2, 0.1, 0.9, 0.5], [0, 0, 0, 0]),
        pairAccuracy(sums, [1, 1, 1, 1], [0, 0, 0, 0]),
        signAccuracy(sums, [1, 0, 1, 0]),
      ],
    ],
    [
      [0.4775264, 4.3547888, 2.5723591],
      [0.75, 1, 0.5, 0.75],
    ],
  ),
];

const whitened = [turnRanges([1, 1, 0, 1]), turnRanges([0, 1, 1, 0])];
const gaeRow = tokenRows([[1, 1, 1, 0, 0, 1, 0]], [[0, 0, 1, 0, 0, 2, 0]]);
const gaeValues = [[0.1, 0.2, 0.3, 0, 0, 0.4, 0]];
const trap = tokenRows([[1, 1, 0, 0]], [[0, 0, 0, 1]]);
const valuesOfF1 = f1.map(({ values = [] }) => values);
const normRewards = assignCredit(f1, { method: "norm_itpo" });
const lengths = [3, 2, 1, 3, 3];
const outcomes = [1, 0, 0, 0.5, 0.7];
const outcomeRows = outcomes.map(
  (outcome, i): RewardRow => ({ group: Number(i === 4), tokens: 3, turns: [{ start: 0, end: lengths[i] }], outcome }),
);
/** The advantage of each row under a shared outcome. */
function perRow(options: AdvantageOptions, rows = outcomeRows): number[] {
  return estimateAdvantages(rows, assignCredit(rows, { method: "shared" }), options).advantages.map(([first]) => first);
}
const plusPlus = tokenRows(
  [
    [1, 1, 0, 1],
    [1, 1, 1, 0],
  ],
  [
    [0, 1, 0, 0],
    [0, 0, 2, 0],
  ],
);

const estimators: Vector[] = [
  vector(
    "TV-18 whitening, of constant values and of fewer than two",
    () => [
      sampled(whiten([Float64Array.of(1, 2, 3, 4), Float64Array.of(5, 6, 7, 8)], whitened), whitened)[0],
      ...whiten([new Float64Array(2).fill(3)], [turnRanges([1, 1])]),
      ...whiten([Float64Array.of(1, 2)], [turnRanges([0, 1])]),
    ],
    [
      [-1.1766968, -0.7844645, 0],
      [0, 0],
      [0, 0],
    ],
  ),
  vector(
    "TV-19 GAE, γ = λ = 1, raw and whitened",
    () =>
      (["none", "whiten"] as const).flatMap((normalise) =>
        sampled(
          gae(gaeRow.rows, gaeRow.rewards, gaeValues, { normalise }).advantages,
          gaeRow.rows.map(({ turns }) => turns),
        ),
      ),
    [
      [2.9, 2.8, 2.7, 1.6],
      [0.6605782, 0.4954337, 0.3302893, -1.4863011],
    ],
  ),
  vector(
    "TV-19 GAE, γ 0.9, λ 0.8",
    () =>
      sampled(
        gae(gaeRow.rows, gaeRow.rewards, gaeValues, { gamma: 0.9, lambda: 0.8, normalise: "none" }).advantages,
        gaeRow.rows.map(({ turns }) => turns),
      ),
    [[1.2771009, 1.6626401, 2.2119999, 1.6]],
  ),
  vector("TV-19b a reward on a user's token is lost", () => gae(trap.rows, trap.rewards, [[0, 0, 0, 0]]).returns, [
    [0, 0, 0, 0],
  ]),
  vector("TV-20 Norm-ITPO with PPO", () => {
    const one = gae(f1, normRewards, valuesOfF1);
    const discounted = gae(f1, normRewards, valuesOfF1, { lambda: 0.95 });
    const inTurns = (table: Table) => sampled(table, turnsOfF1);
    const [a, g] = [inTurns(one.advantages), inTurns(one.returns)];
    return [a[0], a[3], g[0], inTurns(discounted.returns)[0]];
  }, [
    [1.1225293, 1.0189352, -0.860882, -0.964476, -1.0680702],
    [1.1846857, 1.0810916, 0.9774976, 0.8739036],
    [0.95, 0.95, 0.1927001, 0.1927001, 0.1927001],
    [0.9125322, 0.9579287, 0.2006619, 0.1980651, 0.1927001],
  ]),
  vector(
    "TV-21 Norm-ITPO and ITPO with GRPO",
    () =>
      (["norm_itpo", "itpo"] as const).flatMap((method) =>
        atTurns(estimateAdvantages(f1, assignCredit(f1, { method }), { estimator: "grpo" }).advantages, f1),
      ),
    [
      ...[[1.7514225, 0.0261815], [-1.7514226, -1.1751384, -0.5762842], [-1.1179342, -0.3086453], [1.1179338]],
      ...[[-0.3192309, -0.9939684], [0.3192306, -0.7636144, 0.3573207], [-1.0643653, -0.1444496], [1.0643653]],
    ],
  ),
  ...Object.entries<readonly [AdvantageOptions, number[]]>({
    grpo: [{ estimator: "grpo" }, [1.3055797, -0.7833478, -0.7833478, 0.2611159, 0.6999993]],
    "grpo without std": [{ estimator: "dr_grpo" }, [0.625, -0.375, -0.375, 0.125, 0.7]],
    grpo_vectorized: [{ estimator: "grpo_vectorized" }, [1.3055797, -0.7833478, -0.7833478, 0.2611159, 0.6999993]],
    rloo: [{ form: "row_total", normalise: "none" }, [0.8333333, -0.5, -0.5, 0.1666667, 0.7]],
    rloo_vectorized: [{ estimator: "rloo_vectorized" }, [0.8333333, -0.5, -0.5, 0.1666667, 0]],
    gpg: [{ estimator: "gpg" }, [1.0416667, -0.625, -0.625, 0.2083333, 1.1666667]],
    grpo_passk: [{ estimator: "grpo_passk" }, [1.0444638, 0, 0, 0, 0]],
    opo: [{ estimator: "opo" }, [0.5, -0.5, -0.5, 0, 0.7]],
  }).map(([name, [options, expected]]) => vector(`TV-22 ${name}`, () => [perRow(options)], [expected])),
  vector(
    "TV-22 reinforce_plus_plus_baseline, whose only row of a group keeps its reward",
    () => [perRow({ estimator: "reinforce_plus_plus_baseline" })],
    [[0.788767, -1.4253162, -1.4253162, -0.3182746, 0.9548233]],
  ),
  vector("TV-22 rloo, n 8", () => {
    const rows = [1, 0, 0, 1, 0, 0, 0, 1].map((outcome) => ({ ...outcomeRows[0], group: 0, outcome }));
    return [perRow({ form: "row_total", normalise: "none" }, rows)];
  }, [[1, 0, 0, 1, 0, 0, 0, 1].map((outcome) => (outcome ? 0.7142857 : -0.4285714))]),
  vector("TV-23 REINFORCE++", () => {
    const { returns, advantages } = reinforcePlusPlus(plusPlus.rows, plusPlus.rewards, {
      gamma: 0.9,
      acrossTurns: false,
    });
    return [...returns, ...advantages];
  }, [
    [0.9, 1, 0, 0],
    [1.62, 1.8, 2, 0],
    [-0.4319593, -0.296972, 0, -1.6468452],
    [0.5399492, 0.7829265, 1.0529011, 0],
  ]),
  vector(
    "TV-23 ReMax",
    () =>
      remax(plusPlus.rows, plusPlus.rewards, {
        baselines: new Map([
          [0, 0.5],
          [1, 1],
        ]),
      }).advantages,
    [
      [0.5, 0.5, 0, -0.5],
      [1, 1, 1, 0],
    ],
  ),
];

const ppoRow: PolicyRow = {
  turns: turnRanges([1, 1, 1, 1, 1, 0]),
  oldLogprobs: Array(6).fill(-1),
  advantages: [1, 1, 1, -1, -1, -2],
};
const ppoOutputs = [{ logprobs: [-1, -0.7, -1.5, -1.3, 0.5, -0.9] }];
const ppo = (options: Parameters<typeof policyLoss>[0], row = ppoRow) =>
  evaluate(policyLoss(options), [row], ppoOutputs);
const aggregations = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"] as const;
const aggregate = (masks: number[][]) =>
  aggregations.map((name) =>
    aggregationWeights(masks.map(turnRanges), name, 3).reduce(
      (sum, weight, i) => sum + weight * masks[i].reduce((s, bit, t) => s + bit * (3 * i + t + 1), 0),
      0,
    ),
  );
const control = { controller: "adaptive", target: 0.1, horizon: 10_000 } as const;
const d = [0.2, -1, 0, -29];

const losses: Vector[] = [
  vector("TV-24 policy loss", () => {
    const { value, metrics } = ppo({});
    return [
      [0, 1, 2, 3, 4, 5].map((start) => ppo({}, { ...ppoRow, turns: [{ start, end: start + 1 }] }).value),
      [
        value,
        ppo({ aggregation: "seq-mean-token-sum" }).value,
        ppo({ aggregation: "seq-mean-token-sum-norm", normLength: 6 }).value,
        ppo({ clipHigh: 0.28 }).value,
      ],
      [metrics.clipfrac, metrics.ppo_kl, metrics.clipfrac_lower],
    ];
  }, [
    [-1, -1.2, -0.6065307, 0.8, 3, 2.2103419],
    [0.1986939, 0.9934693, 0.1655782, 0.1826939],
    [0.4, -0.2, 0.2],
  ]),
  vector(
    "TV-25 aggregation; an empty row is left out of seq-mean-token-mean (NaN in the reference)",
    () => [
      aggregate([
        [1, 1, 0],
        [1, 1, 1],
      ]),
      aggregate([
        [1, 1, 0],
        [0, 0, 0],
      ]),
    ],
    [
      [3.6, 9, 3.25, 6],
      [1.5, 1.5, 1.5, 1],
    ],
  ),
  vector(
    "TV-26 KL estimators and the adaptive controller",
    () => [
      ...(["k1", "k2", "k3"] as const).map((name) => d.map(klEstimators[name].value)),
      d.slice(0, 2).map(klEstimators.k3.derivative),
      [nextKlCoefficient(0.001, 0.3, 128, control), nextKlCoefficient(0.00100256, 0.05, 128, control)].map(
        (coefficient) => 1000 * coefficient,
      ),
    ],
    [d, [0.02, 0.5, 0, 420.5], [0.0187308, 0.7182817, 0, 10], [0.1812693, -1.7182817], [1.00256, 0.999993]],
  ),
  vector("TV-27 value loss", () => {
    const row = { turns: turnRanges([1, 1, 0]), oldValues: [0.4, 0.4, 0.4], returns: [1, 1, 1] };
    const { value, metrics } = evaluate(valueLoss(), [row], [{ logprobs: [0, 0, 0], values: [0.5, 1.5, -1] }]);
    return [[value, metrics.vf_clipfrac]];
  }, [[0.125, 0]]),
  vector("TV-27 log-probability and entropy", () => {
    const of = (logits: number[]) => rowStatistics(logits, 0, logits.length, 1);
    return [[of([1, 2, 3]).entropy, of([0, 0, 0]).entropy, logprobOf(3, of([1, 2, 3]), 1)]];
  }, [[0.8323956, 1.0986123, -0.4076059]]),
  vector("TV-30 a response cut off inside a turn: its last token has no score in the reference", () => {
    const turns = turnRanges([1, 1, 1, 1, 1, 1, 0, 0, 0, 1]);
    const q = Float64Array.of(1, 1, 1, 1, 1, 1, 0, 0, 0, 1);
    return [
      turnSums(tokenScores(q, turns, { beta: 1, reference: true }), turns),
      turnSums(tokenScores(q, turns, { beta: 1 }), turns),
    ];
  }, [
    [6, 0],
    [6, 1],
  ]),
];

export const specVectors: readonly Vector[] = [...credit, ...rlooOfReference, ...rewardModel, ...estimators, ...losses];
