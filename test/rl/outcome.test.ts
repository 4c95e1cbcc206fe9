import test from "ava";
import { judgeScoresOf, outcomeOf, penaltyOf } from "../../rl/outcome.js";
import type { Trajectory } from "../../rl/trajectory.js";

function conversation(words: readonly [role: "user" | "assistant", count: number][], metrics = {}): Trajectory {
  const messages = words.map(([role, count]) => ({ role, content: " a\n".repeat(count) }));
  return {
    ...{ task: 0, sample: 0, messages, metrics, stop: "user_done" },
    ...{ tokens: new Int32Array(9), sampled: new Uint8Array(9), logprobs: new Float32Array(9) },
    turns: [
      { start: 1, end: 4, stop: "stop" },
      { start: 6, end: 8, stop: "stop" },
    ],
  };
}

const price = (given: Partial<{ tokenPenalty: number; wordPenalty: number }>) => ({
  ...{ metrics: { accuracy: 1 }, tokenPenalty: 0, wordPenalty: 0 },
  ...given,
});

test("TV-33: words of both speakers after the opening cost, at most 1; a metric counts at most 1", (t) => {
  const of = (first: number, second: number) =>
    penaltyOf(
      conversation([
        ["user", 500],
        ["assistant", first],
        ["user", second],
      ]),
      price({ wordPenalty: 5e-5 }),
    );
  t.true(Math.abs(of(400, 600) + 0.05) < 1e-12);
  t.is(of(10_000, 20_000), -1);
  t.is(outcomeOf(conversation([], { accuracy: 1 }), { ...price({}), metrics: { accuracy: 1.5 } }), 1);
  t.is(penaltyOf(conversation([["user", 3]]), price({ wordPenalty: 1 })), 0);
});

test("tokens that the policy drew cost, and both penalties add up", (t) => {
  const talk = conversation([
    ["user", 5],
    ["assistant", 2],
  ]);
  t.true(Math.abs(penaltyOf(talk, price({ tokenPenalty: 0.01 })) + 0.05) < 1e-12);
  t.true(Math.abs(penaltyOf(talk, price({ tokenPenalty: 0.01, wordPenalty: 0.1 })) + 0.25) < 1e-12);
  t.is(penaltyOf(talk, price({ tokenPenalty: 1, wordPenalty: 1 })), -2);
});

test("a judge's scores are the metrics judge/1, judge/2, …; all of them, and none below 0", (t) => {
  const of = (metrics: Record<string, number>) => judgeScoresOf(conversation([], metrics));
  t.deepEqual(of({ "judge/1": 0.5, "judge/2": 0 }), [0.5, 0]);
  t.is(of({ "judge/1": 0.5 }), undefined);
  t.is(of({ "judge/1": 0.5, "judge/2": -1 }), undefined);
  t.is(of({ "judge/1": 0.5, "judge/2": Number.NaN }), undefined);
});
