import test from "ava";
import fc from "fast-check";
import { largestLogits, logprobOf, rowStatistics } from "../../lib/logits.js";

test("statistics of a part of an array, at any scale, without overflow", (t) => {
  const close = (actual: number, expected: number) => t.true(Math.abs(actual - expected) < 1e-10, `${actual}`);
  const logSumExp = (logits: ArrayLike<number>, from: number, count: number, scale: number) => {
    const { best, log } = rowStatistics(logits, from, count, scale);
    return scale * best + log;
  };
  close(logSumExp([9, 0, Math.log(3), 9], 1, 2, 1), Math.log(4));
  close(logSumExp([2, 4], 0, 2, 0.5), Math.log(Math.E + Math.E ** 2));
  close(logSumExp(Float32Array.of(1000, 1000), 0, 2, 1), 1000 + Math.log(2));
  close(logSumExp([Number.NEGATIVE_INFINITY, 1], 0, 2, 1), 1);
});

test("log-probabilities and entropy of a distribution", (t) => {
  const logits = [1, 3, 2, 1].map((weight) => 2 * Math.log(weight));
  const row = rowStatistics(logits, 0, 4, 0.5);
  const probabilities = logits.map((logit) => Math.exp(logprobOf(logit, row, 0.5)));
  [1 / 7, 3 / 7, 2 / 7, 1 / 7].forEach((p, i) => {
    t.true(Math.abs(probabilities[i] - p) < 1e-10);
  });
  const entropy = -probabilities.reduce((sum, p) => sum + p * Math.log(p), 0);
  t.true(Math.abs(row.entropy - entropy) < 1e-10);
  t.is(rowStatistics([0, Number.NEGATIVE_INFINITY], 0, 2, 1).entropy, 0);
});

test("the largest logits of a part of an array are the first of all in falling order, of equal ones the first first", (t) => {
  const few = fc.oneof(fc.integer({ min: -4, max: 4 }), fc.constant(Number.NEGATIVE_INFINITY));
  const property = fc.property(fc.array(few, { maxLength: 40 }), fc.nat(5), fc.nat(45), (row, from, k) => {
    const places = row.map((_, i) => i).sort((a, b) => (row[a] === row[b] ? a - b : row[b] > row[a] ? 1 : -1));
    t.deepEqual(largestLogits([...Array(from).fill(9), ...row, 9], from, row.length, k), places.slice(0, k));
  });
  fc.assert(property);
});
