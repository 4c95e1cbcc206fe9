import test from "ava";
import { InputError } from "../../../lib/errors.js";
import {
  assignCredit,
  creditMethods,
  dirichletWeights,
  judgeWeights,
  normItpoWeights,
  type RewardRow,
  turnRewards,
} from "../../../rl/objective/index.js";
import { close, f1, near } from "./support.js";

const weightTable = [
  ["mean", 0.4, [[0.7772999, 0.2227001], [0.7516301, 0.0330243, 0.2153456], [0.4225046, 0.5774953], [1]]],
  ["mean", 0.7, [[0.6713474, 0.3286525], [0.6034206, 0.1011799, 0.2953995], [0.4554754, 0.5445246], [1]]],
  ["sum", 0.4, [[0.754915, 0.245085], [0.5465494, 0.1219517, 0.331499], [0.3775407, 0.6224594], [1]]],
] as const;

for (const [form, temperature, expected] of weightTable) {
  test(`Norm-ITPO's weights, form ${form}, τ ${temperature}`, (t) => {
    near(t, normItpoWeights(f1, { form, temperature }), expected, 1e-6);
  });
}

test("mixing moves the weights towards uniform", (t) => {
  const weights = normItpoWeights(f1, { uniformMix: 0.25 });
  near(t, [weights[0]], [[0.75 * 0.7772999 + 0.125, 0.75 * 0.2227001 + 0.125]], 1e-6);
  near(t, normItpoWeights(f1, { uniformMix: 1 }), [[0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5], [1]], 1e-12);
});

const rewardTable = [
  ["norm_itpo", [[0.7572999, 0.1927001], [-0.0075, -0.015, -0.0075], [0.4053618, 0.5546382], [0.98]]],
  ["itpo", [[0.3 - 0.02, -0.15 - 0.03], [0.4 - 0.0075, -0.2 - 0.015, 0.2 - 0.0075], [-0.0171429, 0.1771429], [0.48]]],
  ["prime", [[0.3 - 0.02, -0.15 - 0.03], [0.4 - 0.0075, -0.2 - 0.015, 0.2 - 0.0075], [-0.0171429, 0.1771429], [0.48]]],
  ["uniform", [[0.48, 0.47], [-0.0075, -0.015, -0.0075], [0.4828571, 0.4771429], [0.98]]],
  ["judge", [[0.73, 0.22], [-0.0075, -0.015, -0.0075], [0.7328571, 0.2271429], [0.98]]],
  ["value", [[0.2, 0.75], [0.1, 0.15, -0.28], [0.3, 0.66], [0.98]]],
  ["shared", [[0, 0.95], [0, 0, -0.03], [0, 0.96], [0.98]]],
] as const;

for (const [method, expected] of rewardTable) {
  test(`turn rewards of ${method}, the length penalty split by length`, (t) => {
    near(t, turnRewards(f1, assignCredit(f1, { method })), expected, 1e-6);
  });
}

test("every method but the random one is in the table above", (t) => {
  t.deepEqual([...creditMethods].sort(), [...rewardTable.map(([method]) => method), "dirichlet"].sort());
});

test("Dirichlet weights: their mean is even and their variance (K−1)/(K²(Kα+1)), whatever the order of rows", (t) => {
  for (const concentration of [0.3, 1, 5]) {
    const rows = Array.from({ length: 4000 }, (_, sample) => ({ ...f1[1], sample }));
    const weights = dirichletWeights(rows, { concentration, noise: [3, 7] });
    const variance = 2 / (9 * (3 * concentration + 1));
    for (const k of [0, 1, 2]) {
      const mean = weights.reduce((sum, row) => sum + row[k], 0) / weights.length;
      const spread = weights.reduce((sum, row) => sum + (row[k] - 1 / 3) ** 2, 0) / weights.length;
      t.true(Math.abs(mean - 1 / 3) < 4 * Math.sqrt(variance / 4000));
      t.true(Math.abs(spread / variance - 1) < 0.1);
    }
    t.deepEqual(dirichletWeights(rows.toReversed(), { concentration, noise: [3, 7] }), weights.toReversed());
    t.notDeepEqual(dirichletWeights(rows, { concentration, noise: [3, 8] }), weights);
  }
  t.throws(() => dirichletWeights(f1, { concentration: 0 }), { instanceOf: InputError, message: /concentration/ });
});

test("a judge whose scores are all 0 shares evenly; a negative score is refused", (t) => {
  near(t, [judgeWeights({ ...f1[1], judgeScores: [0, 0, 0] })], [[1 / 3, 1 / 3, 1 / 3]], 1e-15);
  near(t, [judgeWeights({ ...f1[1], judgeScores: [1e308, 1e308, 0] })], [[0.5, 0.5, 0]], 1e-15);
  t.throws(() => judgeWeights({ ...f1[0], judgeScores: [-1, 2] }), { instanceOf: InputError, message: /negative/ });
});

test("coefficients scale the method's rewards and add the whole reward at the end of the conversation", (t) => {
  for (const method of creditMethods) {
    const plain = assignCredit(f1, { method });
    const scaled = assignCredit(f1, { method, coefficient: 3, outcomeCoefficient: 2 });
    near(
      t,
      turnRewards(f1, scaled),
      turnRewards(f1, plain).map((sums, i) => {
        const expected = sums.map((sum) => 3 * sum);
        expected[expected.length - 1] += 2 * (f1[i].outcome + (f1[i].lengthPenalty ?? 0));
        return expected;
      }),
      1e-12,
      method,
    );
  }
});

const unusable: [string, Partial<RewardRow>, string][] = [
  ["whose judge failed", { failed: true, outcome: Number.NaN }, "failed"],
  ["without turns", { turns: [] }, "no_turns"],
  ["with a NaN outcome", { outcome: Number.NaN }, "non_finite"],
  ["with an infinite penalty", { lengthPenalty: Number.NEGATIVE_INFINITY }, "non_finite"],
  ["with a NaN value", { values: new Float64Array(10).fill(Number.NaN) }, "non_finite"],
  ["with a judge's NaN", { judgeScores: [1, Number.NaN, 1] }, "non_finite"],
  ["with a NaN score", { scores: new Float64Array(10).fill(Number.NaN) }, "non_finite"],
];

for (const [what, change, reason] of unusable) {
  test(`a row ${what} is left out and touches no other`, (t) => {
    for (const method of creditMethods) {
      const rows = [f1[0], { ...f1[1], ...change }, f1[2], f1[3]];
      const rewards = assignCredit(rows, { method });
      const others = rows.toSpliced(1, 1);
      t.deepEqual(rewards.excluded, [undefined, reason, undefined, undefined]);
      t.is(rewards.rows[1], undefined);
      t.deepEqual(turnRewards(rows, rewards).toSpliced(1, 1), turnRewards(others, assignCredit(others, { method })));
      t.true(
        turnRewards(rows, rewards)
          .flatMap((sums) => [...sums])
          .every(Number.isFinite),
      );
    }
  });
}

test("a row without turns changes the mean turn length of the others' weights", (t) => {
  const rows = f1.with(1, { ...f1[1], turns: [] });
  const { weights } = assignCredit(rows, { method: "norm_itpo" });
  near(t, weights ?? [], [[0.8320184, 0.1679816], [], [0.4013123, 0.5986877], [1]], 1e-6);
});

test("no rows, no rewards", (t) => {
  for (const method of creditMethods) t.deepEqual(assignCredit([], { method }).rows, []);
});

test("scores so far apart that exponentials would overflow give finite weights", (t) => {
  const rows = [{ ...f1[0], scores: f1[0].scores?.map((score) => score * 1e6) }];
  const [weights] = normItpoWeights(rows);
  close(t, weights[0] + weights[1], 1, 1e-12);
  t.true(weights.every(Number.isFinite));
});

test("options out of range and missing scores are named", (t) => {
  const input = { instanceOf: InputError };
  t.regex(t.throws(() => normItpoWeights(f1, { temperature: 0 }), input).message, /temperature/);
  t.regex(t.throws(() => normItpoWeights(f1, { uniformMix: 1.5 }), input).message, /uniformMix/);
  for (const method of ["norm_itpo", "itpo", "prime"] as const) {
    t.throws(() => assignCredit([{ ...f1[0], scores: undefined }], { method }), { message: /token scores/ });
  }
  t.throws(() => assignCredit([{ ...f1[0], values: undefined }], { method: "value" }), { message: /critic/ });
  t.throws(() => assignCredit([{ ...f1[0], judgeScores: undefined }], { method: "judge" }), { message: /judge/ });
  t.throws(() => assignCredit([{ ...f1[0], values: [1] }], { method: "value" }), { message: /1 values/ });
  t.throws(() => assignCredit([{ ...f1[0], scores: new Float64Array(3) }], { method: "prime" }), {
    message: /3 token scores/,
  });
});
