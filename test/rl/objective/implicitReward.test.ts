import test from "ava";
import { logRatios, primeNorm, tokenScores, turnRanges, turnSums } from "../../../rl/objective/index.js";
import { close, golden, near } from "./support.js";

test("log-ratios are taken at sampled tokens only", (t) => {
  const q = logRatios([9, -1, -2, -3], [0, -1.5, -1, Number.NaN], [{ start: 1, end: 3 }]);
  t.deepEqual([...q], [0, 0.5, -1, 0]);
});

test("the λ recursion runs from the right", (t) => {
  const q = Float64Array.of(0.1, 0.2, 0.3);
  const turns = [{ start: 0, end: 3 }];
  near(t, [tokenScores(q, turns, { beta: 0.5, lambda: 0.9 })], [[0.2615, 0.235, 0.15]], 1e-12);
  near(t, [tokenScores(q, turns, { beta: 0.5 })], [[0.05, 0.1, 0.15]], 1e-12);
});

test("the λ recursion decays over user tokens, which keep no score themselves", (t) => {
  const q = Float64Array.of(1, 0, 0, 2);
  const turns = turnRanges([1, 0, 0, 1]);
  near(t, [tokenScores(q, turns, { beta: 1, lambda: 0.5 })], [[1.25, 0, 0, 2]], 1e-12);
});

test("as the reference, the last token of a row that ends inside a turn has no score", (t) => {
  const turns = turnRanges([1, 1, 1, 1, 1, 1, 0, 0, 0, 1]);
  const q = Float64Array.of(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0, 0, 0, 0.7);
  t.is(turns.length, 2);
  near(t, [turnSums(tokenScores(q, turns, { beta: 1, reference: true }), turns)], [[2.1, 0]], 1e-12);
  near(t, [turnSums(tokenScores(q, turns, { beta: 1 }), turns)], [[2.1, 0.7]], 1e-12);
});

test("primeNorm divides by the largest suffix sum of the batch", (t) => {
  const { scores, divisor } = primeNorm([Float64Array.of(0.1, -0.2, 0.3), Float64Array.of(0.5, 0.5, -0.1)]);
  close(t, divisor, 0.900001, 1e-12);
  near(
    t,
    scores,
    [
      [0.111111, -0.222222, 0.333333],
      [0.5555549, 0.5555549, -0.111111],
    ],
    1e-6,
  );
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

test("primeNorm equals the reference's on its golden cases, whatever β", (t) => {
  for (const { q, response_mask, beta, batch_norm_scores } of golden.implicit_reward) {
    const scores = q.map((row, i) => {
      const turns = turnRanges(response_mask[i]);
      return tokenScores(logRatios(row, new Float64Array(row.length), turns), turns, { beta: 1 });
    });
    near(t, primeNorm(scores).scores, batch_norm_scores, 1e-5, `β ${beta}`);
  }
});
