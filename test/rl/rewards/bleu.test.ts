import test from "ava";
import { bleu } from "../../../rl/rewards/bleu.js";

const sat = "the cat sat on the mat";
const vectors: readonly (readonly [reference: string, hypothesis: string, expected: number])[] = [
  [sat, sat, 1],
  [sat, `final_completion: ${sat}`, 0.5318987],
  [sat, "the cat sat", 0.3678794],
  [sat, "", 0],
  [sat, "xyz", 0],
  ["hello world", "hello there world", 0.5513932],
  ["aaaa", "aaaaaaaa", 0.3457208],
];

for (const [reference, hypothesis, expected] of vectors) {
  test(`TV-32: '${hypothesis}' against '${reference}'`, (t) => {
    t.true(Math.abs(bleu(hypothesis, reference) - expected) < 1e-6, `${bleu(hypothesis, reference)}`);
  });
}

test("TV-32: no 4-gram in common is 0 but for rounding", (t) => {
  const value = bleu("abc", "abcdef");
  t.true(Math.abs(value / 4.493e-78 - 1) < 1e-3, `${value}`);
});
