import test from "ava";
import fc from "fast-check";
import type { Message } from "../../../models/message.js";
import { ReplyError } from "../../../rl/llm/extractJson.js";
import { accuracyOf, exactAccuracy, finalAnswer } from "../../../rl/rewards/accuracy.js";

test("a judge's verdict is 0 or 1, however it is written, and nothing else", (t) => {
  for (const [verdict, expected] of [
    ["1", 1],
    ["0", 0],
    ["1.0", 1],
    ['"1"', 1],
    ["true", 1],
    ["FALSE", 0],
    ['" 0 "', 0],
  ] as const) {
    t.is(accuracyOf(`Well: {"thought": "…", "accuracy": ${verdict}}`), expected);
  }
  for (const verdict of ["0.5", "5", "1e999", "null", '"yes"', "[1]", "-1"]) {
    t.throws(() => accuracyOf(`{"thought": "…", "accuracy": ${verdict}}`), {
      instanceOf: ReplyError,
      message: /0 or 1/,
    });
  }
  t.throws(() => accuracyOf('{"accuracy": 1}'), { instanceOf: ReplyError, message: /no 'thought'/ });
  t.throws(() => accuracyOf('{"thought": "right"}'), { instanceOf: ReplyError, message: /no 'accuracy'/ });
  t.throws(() => accuracyOf("yes"), { instanceOf: ReplyError });
});

test("finalAnswer: the last box, else what follows the last #### or 'answer is' on its line", (t) => {
  for (const [text, answer] of [
    ["so \\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"],
    ["2+2=4\n#### 4", "4"],
    ["The answer is: 12.\nRight?", "12"],
    ["The answer is 1. No, the answer is 2", "2"],
    ["\\boxed{1", undefined],
    ["42", undefined],
    ["", undefined],
  ] as const) {
    t.is(finalAnswer(text), answer, text);
  }
});

test("exactAccuracy compares the last assistant message with the truth, by what is written and by number", (t) => {
  const talk = (...contents: string[]): Message[] =>
    contents.flatMap((content) => [
      { role: "user", content: "Well?" },
      { role: "assistant", content },
    ]);
  const solution = "Half of $\\frac{1}{1}$ is $\\boxed{\\frac{1}{2}}$.";
  t.is(exactAccuracy(talk("\\boxed{ \\dfrac{1}{2} }"), solution), 1);
  t.is(exactAccuracy(talk("\\boxed{\\frac12}", "The answer is $\\frac{1}{2}$."), solution), 1, "the last one counts");
  t.is(exactAccuracy(talk("\\boxed{\\frac{1}{2}}", "\\boxed{2}"), solution), 0);
  t.is(exactAccuracy(talk("#### 1,234"), "1234.0"), 1);
  t.is(exactAccuracy(talk("#### 1,2"), "12"), 0, "a pair is no number");
  t.is(exactAccuracy(talk("It is 12"), "12"), 0, "no answer is marked");
  t.is(exactAccuracy(talk("\\boxed{0}"), " "), 0);
  t.is(exactAccuracy([], "12"), 0);
});

test("any text is taken, fast", (t) => {
  const text = fc.array(fc.constantFrom("\\boxed{", "{", "}", "answer is", "####", "\\text{", "1,000", " ", "\n"));
  fc.assert(
    fc.property(text, text, (a, b) => {
      const score = exactAccuracy([{ role: "assistant", content: a.join("") }], b.join(""));
      return score === 0 || score === 1;
    }),
  );
  const start = performance.now();
  for (const part of ["\\boxed{", "{", "\\text{", "1,", "\\text {a", "answer is"]) {
    exactAccuracy([{ role: "assistant", content: `\\boxed{${part.repeat(50_000)}}` }], part.repeat(50_000));
  }
  t.true(performance.now() - start < 5000);
});
