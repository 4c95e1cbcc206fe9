import test from "ava";
import { logRatios, primeNorm, tokenScores, turnRanges } from "../../../rl/objective/index.js";
import { near } from "./support.js";

test("log-ratios are taken at sampled tokens only", (t) => {
  const q = logRatios([9, -1, -2, -3], [0, -1.5, -1, Number.NaN], [{ start: 1, end: 3 }]);
  t.deepEqual([...q], [0, 0.5, -1, 0]);
});

test("the λ recursion decays over user tokens, which keep no score themselves", (t) => {
  const q = Float64Array.of(1, 0, 0, 2);
  const turns = turnRanges([1, 0, 0, 1]);
  near(t, [tokenScores(q, turns, { beta: 1, lambda: 0.5 })], [[1.25, 0, 0, 2]], 1e-12);
});

test("with the outcome given, the last sampled token takes what the row lacks of it, before the recursion", (t) => {
  const q = Float64Array.of(1, 2, 0, 3, 0);
  const turns = turnRanges([1, 1, 0, 1, 0]);
  // β·q = 0.5, 1, 0, 1.5; the last is replaced by 0.7 − 1.5.
  near(t, [tokenScores(q, turns, { beta: 0.5, outcome: 0.7 })], [[0.5, 1, 0, -0.8, 0]], 1e-12);
  const decayed = [0.5 + 0.5 * (1 + 0.5 * (0.5 * -0.8)), 1 + 0.25 * -0.8, 0, -0.8, 0];
  near(t, [tokenScores(q, turns, { beta: 0.5, lambda: 0.5, outcome: 0.7 })], [decayed], 1e-12);
});

test("the reference puts what is missing on the row's last token, which has no score but reaches others by λ", (t) => {
  const q = Float64Array.of(1, 2, 0, 3, 0);
  const turns = turnRanges([1, 1, 0, 1, 0]);
  const options = { beta: 0.5, outcome: 0.7, reference: true };
  near(t, [tokenScores(q, turns, options)], [[0.5, 1, 0, 1.5, 0]], 1e-12);
  // 0.7 − 3 = −2.3 on the last token: r = 1.5 − 1.15, …
  const last = 1.5 + 0.5 * -2.3;
  const decayed = [0.5 + 0.5 * (1 + 0.25 * last), 1 + 0.25 * last, 0, last, 0];
  near(t, [tokenScores(q, turns, { ...options, lambda: 0.5 })], [decayed], 1e-12);
});

test("granularity whole: the sum of the row's scores on its last sampled token", (t) => {
  const q = Float64Array.of(1, 2, 0, 3, 0);
  const turns = turnRanges([1, 1, 0, 1, 0]);
  near(t, [tokenScores(q, turns, { beta: 0.5, granularity: "whole" })], [[0, 0, 0, 3, 0]], 1e-12);
  const both = tokenScores(q, turns, { beta: 0.5, granularity: "whole", outcome: 0.7 });
  near(t, [both], [[0, 0, 0, 0.7, 0]], 1e-12);
  near(t, [tokenScores(q, [], { beta: 0.5, granularity: "whole", outcome: 0.7 })], [[0, 0, 0, 0, 0]], 0);
});

test("primeNorm leaves zeros as they are, and rows that are not finite out of the divisor", (t) => {
  near(t, primeNorm([new Float64Array(3)]).scores, [[0, 0, 0]], 0);
  const alone = primeNorm([Float64Array.of(2, -1)]);
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const { scores, divisor } = primeNorm([Float64Array.of(2, -1), Float64Array.of(5, bad, 7)]);
    t.is(divisor, alone.divisor);
    near(t, [scores[0]], alone.scores, 0);
  }
});
