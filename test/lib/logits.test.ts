import test from "ava";
import { logSumExp } from "../../lib/logits.js";

test("logSumExp sums a part of an array, at any temperature, without overflow", (t) => {
  const close = (actual: number, expected: number) => t.true(Math.abs(actual - expected) < 1e-12, `${actual}`);
  close(logSumExp([9, 0, Math.log(3), 9], 1, 2), Math.log(4));
  close(logSumExp([2, 4], 0, 2, 2), Math.log(Math.E + Math.E ** 2));
  close(logSumExp(Float32Array.of(1000, 1000), 0, 2), 1000 + Math.log(2));
  close(logSumExp([Number.NEGATIVE_INFINITY, 1], 0, 2), 1);
});
