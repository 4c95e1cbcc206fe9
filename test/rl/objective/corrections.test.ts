/** What corrects rewards, losses and batches: importance weights, KL in the reward, dynamic sampling, ranks. */
import test from "ava";
import {
  assignCredit,
  importanceWeights,
  informativeGroups,
  klEstimators,
  klPenalty,
  nextKlCoefficient,
  primeNorm,
  turnRewards,
} from "../../../rl/objective/index.js";
import { close, f1, near } from "./support.js";

const turns = [
  { start: 1, end: 3 },
  { start: 4, end: 5 },
];
const sampler = [0, -1, -1, 0, -1];
const trainer = [0, -1 + Math.log(3), -1 + Math.log(0.1), 9, -1];

test("importance weights: a ratio a token or a row, truncated above or masked outside", (t) => {
  const of = (level: "token" | "sequence", bound: "truncate" | "mask", high?: number) =>
    importanceWeights(trainer, sampler, turns, { level, bound, high });
  near(t, [of("token", "truncate").weights], [[0, 2, 0.1, 0, 1]], 1e-12);
  near(t, [of("token", "mask").weights], [[0, 0, 0, 0, 1]], 1e-12);
  near(t, [of("token", "mask", 4).weights], [[0, 3, 0, 0, 1]], 1e-12);
  near(t, [of("sequence", "truncate").weights], [[0, 0.3, 0.3, 0, 0.3]], 1e-12);
  near(t, [of("sequence", "mask").weights], [[0, 0, 0, 0, 0]], 1e-12);
  t.deepEqual(
    [of("token", "truncate").bounded, of("token", "mask").bounded, of("sequence", "mask").bounded],
    [1, 2, 3],
  );
});

test("a ratio that is not a number weighs 0, and extreme ones stay finite", (t) => {
  for (const bound of ["truncate", "mask"] as const) {
    const { weights } = importanceWeights([0, Number.NaN, 1e4, 0, -1e4], sampler, turns, { level: "token", bound });
    t.true(weights.every(Number.isFinite));
    t.is(weights[1], 0);
  }
});

test("the straight-through KL estimators keep their value and take k2's derivative", (t) => {
  for (const name of ["k1", "k2", "k3", "abs"] as const) {
    for (const d of [-30, -1, 0, 0.2, 3]) {
      t.is(klEstimators[`${name}+`].value(d), klEstimators[name].value(d));
      t.is(klEstimators[`${name}+`].derivative(d), d);
    }
  }
});

test("KL in the reward takes the same from a conversation wherever it is placed", (t) => {
  const logprobs = f1.map(({ tokens }) => Float64Array.from({ length: tokens }, (_, at) => -0.1 * at));
  const reference = f1.map(({ tokens }) => new Float64Array(tokens).fill(-0.3));
  const before = assignCredit(f1, { method: "uniform" });
  const kls = f1.map(({ turns }, i) =>
    turns.map(({ start, end }) => {
      let sum = 0;
      for (let at = start; at < end; at++) sum += logprobs[i][at] + 0.3;
      return sum;
    }),
  );
  const total = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0);
  for (const placement of ["token", "turn", "conversation"] as const) {
    const { rewards, kl } = klPenalty(f1, before, logprobs, reference, { coefficient: 0.5, placement });
    const [taken, given] = [turnRewards(f1, rewards), turnRewards(f1, before)];
    const counts = f1.map(({ turns }) => turns.reduce((sum, { start, end }) => sum + end - start, 0));
    close(t, kl, total(kls.map((row, i) => total(row) / counts[i])) / 4, 1e-12);
    f1.forEach((_, i) => {
      close(t, total(taken[i]), total(given[i]) - 0.5 * total(kls[i]), 1e-12, placement);
      if (placement !== "conversation") {
        near(t, [taken[i]], [given[i].map((reward, k) => reward - 0.5 * kls[i][k])], 1e-12, placement);
      }
    });
  }
});

test("a row whose KL is not finite is excluded, and excluded rows stay so", (t) => {
  const rows = f1.with(3, { ...f1[3], failed: true });
  const zeros = rows.map(() => new Float64Array(10));
  const reference = zeros.with(0, new Float64Array(10).fill(Number.NEGATIVE_INFINITY));
  const { rewards, kl } = klPenalty(rows, assignCredit(rows, { method: "uniform" }), zeros, reference, {
    coefficient: 1,
    placement: "turn",
  });
  t.deepEqual(rewards.excluded, ["non_finite", undefined, undefined, "failed"]);
  t.is(rewards.rows[0], undefined);
  t.is(kl, 0);
});

test("a fixed coefficient stays, an adaptive one moves by a fifth at most, and nothing moves it without a KL", (t) => {
  const control = { target: 0.1, horizon: 1000 };
  t.is(nextKlCoefficient(0.2, 5, 100, { ...control, controller: "fixed" }), 0.2);
  close(t, nextKlCoefficient(0.2, 5, 100, { ...control, controller: "adaptive" }), 0.2 * 1.02, 1e-12);
  close(t, nextKlCoefficient(0.2, 0, 100, { ...control, controller: "adaptive" }), 0.2 * 0.98, 1e-12);
  t.is(nextKlCoefficient(0.2, Number.NaN, 100, { ...control, controller: "adaptive" }), 0.2);
});

test("groups teach something when two of their rows differ; failures and empty rows do not make a difference", (t) => {
  const of = (group: number, outcome: number, change = {}) => ({
    ...f1[0],
    lengthPenalty: 0,
    group,
    outcome,
    ...change,
  });
  const rows = [
    ...[of(0, 1), of(0, 0)],
    ...[of(1, 1), of(1, 1)],
    ...[of(2, 1), of(2, 0, { failed: true })],
    ...[of(3, 1), of(3, 0, { turns: [] })],
    of(4, 1),
    ...[of(5, 1), of(5, 1, { lengthPenalty: -0.1 })],
  ];
  t.deepEqual([...informativeGroups(rows)], [0, 5]);
});

test("prime_norm by rank: every rank's rows have their own divisor", (t) => {
  const scores = [
    [1, -2],
    [4, 0],
    [0.5, 0],
    [0.25, 0],
    [8, 0],
  ].map((row) => Float64Array.from(row));
  const parts = [scores.slice(0, 3), scores.slice(3)].map((part) => primeNorm(part));
  const byRank = primeNorm(scores, { ranks: 2 });
  near(
    t,
    byRank.scores,
    parts.flatMap((part) => part.scores),
    0,
  );
  close(t, byRank.divisor, 8 + 1e-6, 1e-12);
  near(t, primeNorm(scores, { ranks: 1 }).scores, primeNorm(scores).scores, 0);
  t.is(primeNorm([], { ranks: 4 }).scores.length, 0);
});
