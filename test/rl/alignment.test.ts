import test from "ava";
import { creditAlignment, turnScores } from "../../rl/alignment.js";
import type { Trajectory } from "../../rl/trajectory.js";

const config: Parameters<typeof creditAlignment>[2] = {
  outcome: { metrics: { accuracy: 1 }, tokenPenalty: 0, wordPenalty: 0 },
  credit: {
    method: "norm_itpo",
    form: "mean",
    temperature: 0.4,
    uniformMix: 0,
    concentration: 1,
    coefficient: 1,
    outcomeCoefficient: 0,
  },
};

/** A conversation of turns with these token scores, a token of template before each. */
function conversation(turns: readonly (readonly number[])[], usefulTurn?: number, failure?: string) {
  let at = 0;
  const ranges = turns.map((scores) => {
    const start = at + 1;
    at = start + scores.length;
    return { start, end: at, stop: "stop" as const };
  });
  const trajectory: Trajectory = {
    ...{ task: 0, sample: 0, messages: [], turns: ranges, stop: "user_done", usefulTurn, failure },
    tokens: new Int32Array(at + 1),
    sampled: new Uint8Array(at + 1),
    logprobs: new Float32Array(at + 1),
    metrics: failure ? {} : { accuracy: 1 },
  };
  return { trajectory, scores: Float64Array.from([...turns.flatMap((scores) => [9, ...scores]), 9]) };
}

function align(...conversations: ReturnType<typeof conversation>[]) {
  const scores = conversations.map((conversation) => conversation.scores);
  const trajectories = conversations.map(({ trajectory }) => trajectory);
  const result = creditAlignment(trajectories, { scores, ratios: scores }, config);
  return Object.fromEntries(Object.entries(result).map(([method, { share }]) => [method, share]));
}

test("each method names its turn", (t) => {
  // Sums 2.5, 2, 1; means 0.5, 1, 1; the largest token in turn 2; the longest turn 0.
  const turns = [[0.5, 0.5, 0.5, 0.5, 0.5], [1.2, 0.8], [2, -1, 2, -1, 3].map((x) => x / 5)];
  const named = (useful: number) =>
    Object.entries(align(conversation(turns, useful)))
      .filter(([, share]) => share === 1)
      .map(([method]) => method);
  t.deepEqual(named(0), ["itpo", "prime", "first_turn"]);
  t.deepEqual(named(1), ["norm_itpo", "max_token"]);
  t.deepEqual(named(2), ["last_turn"]);
});

test("turns that tie share the success, and chance is one over their number", (t) => {
  const { chance, longest_turn, norm_itpo } = align(
    conversation([[1, 1], [1, 1], [0]], 1),
    conversation([[1], [1], [1], [1]], 2),
  );
  t.true(Math.abs(chance - (1 / 3 + 1 / 4) / 2) < 1e-12);
  t.true(Math.abs(longest_turn - (1 / 2 + 1 / 4) / 2) < 1e-12);
  t.true(Math.abs(norm_itpo - (1 / 2 + 1 / 4) / 2) < 1e-12);
});

test("only conversations with a useful turn count, and each method has as many of them", (t) => {
  const useful = conversation([[1], [2]], 1);
  const without = conversation([[1], [2]]);
  const scores = [useful, without, useful].map((each) => each.scores);
  const result = creditAlignment(
    [useful, without, useful].map(({ trajectory }) => trajectory),
    { scores, ratios: scores },
    config,
  );
  for (const [method, { trials, low, high }] of Object.entries(result)) {
    t.is(trials, 2, method);
    t.true(0 <= low && low < high && high <= 1, method);
  }
});

test("a conversation that failed counts for no method", (t) => {
  const good = conversation([[1], [2]], 1);
  const ill = conversation([[3], [1]], 1, "the judge is ill");
  t.deepEqual(align(good, ill), align(good));
});

test("the scores of a turn are its tokens' alone", (t) => {
  const { trajectory, scores } = conversation([[1, 2], [0.5], [-1, -2, 4]]);
  t.deepEqual([...turnScores(trajectory, scores)], [3, 0.5, 1]);
});
