import test from "ava";
import {
  alignment,
  assignCredit,
  normItpoWeights,
  pairAccuracy,
  signAccuracy,
  turnStatistics,
  weightStatistics,
  wilson,
} from "../../../rl/objective/index.js";
import { close, f1 } from "./support.js";

test("pairs are taken inside a group only; a group of one has none", (t) => {
  close(t, pairAccuracy([1, 9, 2, 8, 5], [0, 0, 1, 1, 1], [1, 2, 1, 2, 3]), 0.5);
  t.is(pairAccuracy([1], [1], [1]), Number.NaN);
});

test("a label of one half agrees with a score of exactly 0 alone", (t) => {
  close(t, signAccuracy([0, 1e-9, -1e-9], [0.5, 0.5, 0.5]), 1 / 3, 1e-12);
});

test("the number of credited turns is K for uniform weights and 1 for a single turn", (t) => {
  close(t, weightStatistics([Float64Array.of(0.25, 0.25, 0.25, 0.25)]).effectiveTurns, 4, 1e-12);
  t.deepEqual(weightStatistics([Float64Array.of(1, 0, 0), new Float64Array(0)]), { entropy: 0, effectiveTurns: 1 });
  const { effectiveTurns } = weightStatistics(normItpoWeights([f1[0]]));
  t.true(effectiveTurns > 1 && effectiveTurns < 2);
});

test("Wilson's interval", (t) => {
  // scipy.stats.binomtest(…).proportion_ci(method="wilson")
  const cases = [
    [8, 10, 0.4901625, 0.9433178],
    [0, 10, 0, 0.2775328],
    [10, 10, 0.7224672, 1],
    [300, 500, 0.5564541, 0.642021],
  ];
  for (const [successes, trials, low, high] of cases) {
    const interval = wilson(successes, trials);
    close(t, interval.low, low, 1e-6);
    close(t, interval.high, high, 1e-6);
  }
  t.deepEqual(wilson(0, 0), { share: Number.NaN, low: 0, high: 1, trials: 0 });
});

test("alignment counts how often the largest turn value falls on the useful turn", (t) => {
  const values = [[0.1, 0.9], [0.8, 0.2, 0.3], [1, 2], [5]];
  const { share, trials } = alignment(values, [1, 2, undefined, 0]);
  t.is(trials, 3);
  close(t, share, 2 / 3, 1e-12);
});

test("equal values align as chance does, and a conversation without values does not count", (t) => {
  const values = [[1, 1, 1, 1], [0, 0], []];
  const { share, trials } = alignment(values, [2, 0, 0]);
  t.is(trials, 2);
  close(t, share, (1 / 4 + 1 / 2) / 2, 1e-12);
});

test("credit aligns by its weights, even where the outcome is 0", (t) => {
  const { weights = [] } = assignCredit(f1, { method: "norm_itpo" });
  t.is(alignment(weights, [0, 0, 1, 0]).share, 1);
});

test("rows without turns do not count in turn statistics", (t) => {
  const sums = [Float64Array.of(1, 3), Float64Array.of(2)];
  t.deepEqual(turnStatistics([...sums, new Float64Array(0)]), turnStatistics(sums));
  t.deepEqual(turnStatistics(sums), { sum: 3, mean: 2, variance: 0.5 });
});
