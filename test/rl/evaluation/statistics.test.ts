import test from "ava";
import fc from "fast-check";
import {
  average,
  bestOf,
  deviation,
  drawSizes,
  meanInterval,
  studentQuantile,
  worstOf,
} from "../../../rl/evaluation/statistics.js";

const near = (value: number, expected: number, tolerance = 1e-6) => Math.abs(value - expected) < tolerance;
const prompts = [
  [0, 1, 1],
  [0.2, 0.4, 0.9],
];

test("TV-34: mean and spread of three samples, and the exact best of two and three", (t) => {
  t.true(near(average(prompts.map(average)), 0.583333));
  t.true(near(average(prompts.map(deviation)), 0.382898));
  const best = (k: number) => average(prompts.map((values) => bestOf(values, k)));
  t.true(near(best(2), 0.7722222));
  t.true(near(best(3), 0.8537037));
});

test("best and worst of k are what all draws with replacement come to", (t) => {
  const values = [0.3, -1, 2, 0.3];
  const draws = values.flatMap((a) => values.flatMap((b) => values.map((c) => [a, b, c])));
  t.true(near(bestOf(values, 3), average(draws.map((draw) => Math.max(...draw))), 1e-12));
  t.true(near(worstOf(values, 3), average(draws.map((draw) => Math.min(...draw))), 1e-12));
});

test("best of one is the mean; more draws make the best no worse and the worst no better", (t) => {
  const property = fc.property(
    fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 1, maxLength: 9 }),
    (values) => {
      t.true(near(bestOf(values, 1), average(values), 1e-9));
      for (let k = 1; k < 8; k++) {
        t.true(bestOf(values, k + 1) >= bestOf(values, k) - 1e-12);
        t.true(worstOf(values, k + 1) <= worstOf(values, k) + 1e-12);
      }
    },
  );
  fc.assert(property);
});

test("k is 2, 4, 8, … below the number of samples, and that number", (t) => {
  t.deepEqual([1, 2, 3, 8, 12].map(drawSizes), [[], [2], [2, 3], [2, 4, 8], [2, 4, 8, 12]]);
});

test("Student's quantiles are those of the tables", (t) => {
  const table = { 1: 12.7062, 2: 4.3027, 3: 3.1824, 5: 2.5706, 10: 2.2281, 30: 2.0423, 1000: 1.9623 };
  for (const [degrees, value] of Object.entries(table)) {
    t.true(near(studentQuantile(Number(degrees)), value, 0.01), `${degrees}: ${studentQuantile(Number(degrees))}`);
  }
});

test("an interval over prompts: Student's; of one prompt nothing is known", (t) => {
  const { mean, low, high } = meanInterval([1, 2, 3, 4]);
  t.is(mean, 2.5);
  t.true(near(low, 2.5 - (3.1824 * Math.sqrt(5 / 3)) / 2, 0.01) && near(high - 2.5, 2.5 - low, 1e-12));
  t.deepEqual(meanInterval([7]), { mean: 7, low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY });
});
