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

test("primeNorm leaves zeros as they are, and rows that are not finite out of the divisor", (t) => {
  near(t, primeNorm([new Float64Array(3)]).scores, [[0, 0, 0]], 0);
  const alone = primeNorm([Float64Array.of(2, -1)]);
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const { scores, divisor } = primeNorm([Float64Array.of(2, -1), Float64Array.of(5, bad, 7)]);
    t.is(divisor, alone.divisor);
    near(t, [scores[0]], alone.scores, 0);
  }
});
