import test from "ava";
import {
  type Advantages,
  assignCredit,
  type CreditOptions,
  creditMethods,
  type RewardRow,
  type RlooOptions,
  rloo,
  rlooForms,
  turnRanges,
  whiten,
} from "../../../rl/objective/index.js";
import { close, f1, near, uniforms } from "./support.js";

const reference = { form: "reference", normalise: "whiten" } as const;

function run(rows: readonly RewardRow[], credit: CreditOptions, options?: RlooOptions): Advantages {
  return rloo(rows, assignCredit(rows, credit), options);
}

/** A stream's values at the first token of every turn. */
function atTurns(rows: readonly RewardRow[], stream: readonly Float64Array[]): number[][] {
  return rows.map(({ turns }, i) => turns.map(({ start }) => stream[i][start]));
}

/** Rows with `lengths.length` turns of the given lengths, a user token between them. */
function row(group: number, outcome: number, lengths: number[]): RewardRow {
  const turns = turnRanges(lengths.flatMap((length) => [...Array<number>(length).fill(1), 0]));
  return { group, outcome, turns, tokens: lengths.reduce((a, b) => a + b + 1, 0) };
}

test("whitening is idempotent", (t) => {
  const x = [Float64Array.of(1, 2, 3, 4), Float64Array.of(5, 6, 7, 8)];
  const turns = [turnRanges([1, 1, 0, 1]), turnRanges([0, 1, 1, 0])];
  const whitened = whiten(x, turns);
  near(t, whiten(whitened, turns), whitened, 1e-7, "idempotent");
});

test("equal values whiten to 0, and so do fewer than two", (t) => {
  const constant = whiten([new Float64Array(4).fill(3)], [turnRanges([1, 1, 1, 1])]);
  near(t, constant, [[0, 0, 0, 0]], 0);
  for (const mask of [
    [0, 0],
    [0, 1],
  ])
    near(t, whiten([Float64Array.of(1, 2)], [turnRanges(mask)]), [[0, 0]], 0);
});

const twoLong = [row(0, 1, [1]), row(0, 1, [1, 1, 1])];

test("turn-count bias: the reference charges turns, the turn-index form does not", (t) => {
  const biased = run(twoLong, { method: "uniform" }, { form: "reference", normalise: "none" });
  near(t, atTurns(twoLong, biased.advantages), [[2 / 3], [-2, -4 / 3, -2 / 3]]);
  const corrected = run(twoLong, { method: "uniform" }, { form: "turn_index", normalise: "none" });
  near(t, atTurns(twoLong, corrected.advantages), [[0], [0, 2 / 3, 1 / 3]], 1e-15);
  const shared = run(twoLong, { method: "uniform" }, { form: "share", normalise: "none" });
  near(t, atTurns(twoLong, shared.advantages), [[0], [0, 0, 0]], 1e-15);
});

// Three siblings with rewards (1, 3), (2) and (0, 4, 2): R = 4, 2, 6, reward to go (4, 3), (2), (6, 6, 2).
const siblings = [row(3, 0, [2, 1]), row(3, 0, [1]), row(3, 0, [1, 2, 1])];
const byHand = [Float64Array.of(1, 3), Float64Array.of(2), Float64Array.of(0, 4, 2)];
const forms: [NonNullable<RlooOptions["form"]>, number[][]][] = [
  ["turn_index", [[4 - 4, 3 - 6], [2 - 5], [6 - 3, 6 - 3, 2]]],
  ["row_total", [[4 - 4, 3 - 4], [2 - 5], [6 - 3, 6 - 3, 2 - 3]]],
  ["share", [[2 * 1 - 4, 2 * 3 - 4], [2 - 5], [0 - 3, 3 * 4 - 3, 3 * 2 - 3]]],
  // With weights (1/4, 3/4), (1), (1/2, 1/3, 1/6) and R less the siblings' mean 0, −3, 3.
  ["advantage_share", [[0, 0], [-3], [3 * 3 * (1 / 2), 3 * 3 * (1 / 3), 3 * 3 * (1 / 6)]]],
  ["reference", [[6 - 6, 4.5 - 3], [3 - 3], [9 - 9, 9 - 6, 3 - 3]]],
];

for (const [form, expected] of forms) {
  test(`advantages by hand: ${form}`, (t) => {
    const rewards = {
      rows: byHand.map((turns) => ({ turns, conversation: 0 })),
      excluded: siblings.map(() => undefined),
      weights: [Float64Array.of(1 / 4, 3 / 4), Float64Array.of(1), Float64Array.of(1 / 2, 1 / 3, 1 / 6)],
    };
    const { advantages, counts } = rloo(siblings, rewards, { form, normalise: "none" });
    near(t, atTurns(siblings, advantages), expected, 1e-12);
    t.is(counts.unpairedTurns, form === "turn_index" ? 1 : 0);
  });
}

test("rewards of the last token of each turn are turn rewards, where the baseline is no mean", (t) => {
  const onTurns = {
    rows: byHand.map((turns) => ({ turns, conversation: 0 })),
    excluded: siblings.map(() => undefined),
  };
  const onTokens = {
    ...onTurns,
    rows: siblings.map(({ tokens, turns }, i) => {
      const stream = new Float64Array(tokens);
      turns.forEach(({ end }, k) => {
        stream[end - 1] = byHand[i][k];
      });
      return { turns: new Float64Array(turns.length), conversation: 0, tokens: stream };
    }),
  };
  for (const form of ["turn_index", "row_total"] as const) {
    const options = { form, normalise: "none" } as const;
    near(t, rloo(siblings, onTokens, options).advantages, rloo(siblings, onTurns, options).advantages, 1e-12);
  }
});

test("advantage_share is exactly 0 where outcomes are equal, whatever the turns and their credit; no other form is", (t) => {
  const rows = f1.slice(0, 3).map((r) => ({ ...r, group: 0, outcome: 0.7, lengthPenalty: 0 }));
  for (const form of rlooForms) {
    const { advantages } = run(rows, { method: "norm_itpo" }, { form });
    const isZero = advantages.every((stream) => stream.every((value) => value === 0));
    t.is(isZero, form === "advantage_share", form);
  }
});

test("the form is advantage_share where credit divides the outcome by weights, else turn_index", (t) => {
  for (const method of creditMethods) {
    const form = ["norm_itpo", "uniform", "dirichlet", "judge"].includes(method) ? "advantage_share" : "turn_index";
    near(t, run(f1, { method }).advantages, run(f1, { method }, { form }).advantages, 0, method);
  }
});

test("advantage_share averages over a row's turns to the leave-one-out of the shared outcome", (t) => {
  const rows = f1.map((r) => ({ ...r, group: 0 }));
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b) / values.length;
  const of = (method: "norm_itpo" | "shared") =>
    atTurns(rows, run(rows, { method }, { form: "advantage_share", normalise: "none" }).advantages).map(mean);
  near(t, [of("norm_itpo")], [of("shared")], 1e-12);
});

test("share with uniform credit is the leave-one-out of the shared outcome at every token", (t) => {
  const rows = [row(0, 1, [2, 1, 3]), row(0, 0.25, [4]), row(0, 0.5, [1, 1])];
  const options = { form: "share", normalise: "none" } as const;
  const uniform = run(rows, { method: "uniform" }, options).advantages;
  near(t, uniform, run(rows, { method: "shared" }, options).advantages, 1e-15);
  near(t, atTurns(rows, uniform), [[0.625, 0.625, 0.625], [-0.5], [-0.125, -0.125]], 1e-15);
});

test("share of token rewards averages over the tokens to the leave-one-out of the totals", (t) => {
  const rows = f1.slice(0, 2).map((r) => ({ ...r, lengthPenalty: 0 }));
  const { advantages } = run(rows, { method: "prime" }, { form: "share", normalise: "none" });
  const means = rows.map(({ turns }, i) => {
    const values = turns.flatMap(({ start, end }) => [...advantages[i].subarray(start, end)]);
    return values.reduce((a, b) => a + b) / values.length;
  });
  near(t, [means], [[0.15 - 0.4, 0.4 - 0.15]], 1e-12);
});

test("normalisation: rms keeps signs and gives a root mean square of 1 over the sampled tokens", (t) => {
  const raw = run(f1, { method: "norm_itpo" }, { normalise: "none" });
  const { advantages } = run(f1, { method: "norm_itpo" });
  const sampled = f1.flatMap(({ turns }, i) =>
    turns.flatMap(({ start, end }) => [...advantages[i].subarray(start, end)]),
  );
  close(t, sampled.reduce((sum, a) => sum + a * a, 0) / sampled.length, 1, 1e-6);
  f1.forEach(({ turns }, i) => {
    for (const { start } of turns) t.is(Math.sign(advantages[i][start]), Math.sign(raw.advantages[i][start]));
  });
});

test("advantages are 0 wherever the policy sampled nothing, except in the reference's whitened streams", (t) => {
  const off = (advantages: readonly Float64Array[]) => {
    const copy = advantages.map((a) => a.slice());
    f1.forEach(({ turns }, i) => {
      for (const { start, end } of turns) copy[i].fill(0, start, end);
    });
    return copy.flatMap((a) => [...a]);
  };
  for (const form of rlooForms.filter((form) => form !== "reference")) {
    for (const normalise of ["rms", "whiten", "none"] as const) {
      t.true(off(run(f1, { method: "prime" }, { form, normalise }).advantages).every((a) => a === 0));
    }
  }
  t.false(off(run(f1, { method: "prime" }, reference).advantages).every((a) => a === 0));
});

test("returns of the corrected forms are rewards to go, between the turns too", (t) => {
  const { returns } = run([f1[0]], { method: "itpo" }, { form: "turn_index" });
  near(t, returns, [[0.1, 0.1, -0.18, -0.18, -0.18, -0.18, -0.18, 0, 0, 0]], 1e-12);
});

const allOptions = rlooForms.flatMap((form) =>
  (["rms", "whiten", "none"] as const).map((normalise) => ({ form, normalise })),
);

test("a row without turns leaves its group: advantage 0 for it, no baseline for its only sibling", (t) => {
  const rows = f1.with(1, { ...f1[1], turns: [] });
  for (const method of creditMethods) {
    for (const options of allOptions) {
      const { advantages, returns, counts } = run(rows, { method }, options);
      t.true([...advantages, ...returns].flatMap((a) => [...a]).every(Number.isFinite));
      t.true(advantages[1].every((a) => a === 0));
      t.is(counts.noTurns, 1);
      t.is(counts.singletonGroups, 1);
    }
  }
});

test("excluded rows are counted by reason and change nothing for the others", (t) => {
  const bad: RewardRow[] = [
    { ...f1[0], failed: true },
    { ...f1[2], turns: [] },
    { ...f1[3], outcome: Number.NaN },
    { ...f1[1], scores: new Float64Array(10).fill(Number.NaN) },
  ];
  for (const options of allOptions) {
    const alone = run(f1, { method: "norm_itpo" }, options);
    const together = run([...bad, ...f1], { method: "norm_itpo" }, options);
    t.deepEqual(together.advantages.slice(4), alone.advantages);
    t.true(together.advantages.slice(0, 4).every((a) => a.every((x) => x === 0)));
    const { rows, failed, noTurns, nonFinite } = together.counts;
    t.deepEqual({ rows, failed, noTurns, nonFinite }, { rows: 8, failed: 1, noTurns: 1, nonFinite: 2 });
  }
});

test("a group of one has no baseline: its advantage is its reward to go, and it is counted", (t) => {
  const rows = [row(0, 0.75, [2, 1])];
  for (const form of ["turn_index", "row_total", "reference"] as const) {
    const { advantages, counts } = run(rows, { method: "uniform" }, { form, normalise: "none" });
    near(t, atTurns(rows, advantages), [[0.75, 0.375]], 1e-15, form);
    t.is(counts.singletonGroups, 1);
    t.is(counts.unpairedTurns, 0);
  }
});

test("equal outcomes, turn counts and uniform credit give exactly 0 everywhere", (t) => {
  const random = uniforms(5);
  for (const n of [2, 3, 7, 8]) {
    for (const outcome of [1, 0.1, 0.7234567, -3.3]) {
      const rows = Array.from({ length: n }, () =>
        row(
          0,
          outcome,
          Array.from({ length: 3 }, () => 1 + Math.floor(random() * 5)),
        ),
      );
      for (const options of allOptions.filter(({ form }) => form !== "row_total")) {
        const { advantages, counts } = run(rows, { method: "uniform" }, options);
        t.true(advantages.every((a) => a.every((x) => x === 0)));
        t.is(counts.flatGroups, 1);
      }
    }
  }
});

test("no rows at all, or none with a turn: zeros and counts", (t) => {
  t.is(run([], { method: "norm_itpo" }).advantages.length, 0);
  const { advantages, counts } = run(
    f1.map((r) => ({ ...r, turns: [] })),
    { method: "norm_itpo" },
  );
  t.true(advantages.every((a) => a.every((x) => x === 0)));
  t.is(counts.noTurns, 4);
});

test("the leave-one-out baseline is unbiased: its mean advantage is 0 over random outcomes (Monte Carlo)", (t) => {
  const random = uniforms(11);
  for (const form of rlooForms) {
    let sum = 0;
    const trials = 4000;
    for (let trial = 0; trial < trials; trial++) {
      const rows = Array.from({ length: 4 }, () => row(0, random() < 0.3 ? 1 : 0, [1, 1]));
      const { advantages } = run(rows, { method: "shared" }, { form, normalise: "none" });
      sum += advantages[0][0];
    }
    t.true(Math.abs(sum / trials) < 4 * Math.sqrt((0.21 * 4) / 3 / trials), `${form}: ${sum / trials}`);
  }
});

test("credit and advantages of 128 rows of 4,096 tokens cost milliseconds", (t) => {
  const random = uniforms(3);
  const rows = Array.from({ length: 128 }, (_, i): RewardRow => {
    const lengths = [100, 600, 40, 600, 40, 600, 40, 600, 40, 600, 40, 396, 400];
    const turns = turnRanges(lengths.flatMap((length, k) => Array<number>(length).fill(k % 2)));
    const scores = Float64Array.from({ length: 4096 }, () => random() - 0.5);
    return { group: i >> 3, tokens: 4096, turns, scores, outcome: random(), lengthPenalty: -0.01 };
  });
  for (const method of ["norm_itpo", "prime"] as const) {
    for (const options of [{}, reference]) {
      const times: number[] = [];
      while (times.length < 20) {
        const start = performance.now();
        run(rows, { method }, options);
        times.push(performance.now() - start);
      }
      const best = Math.min(...times);
      const median = times.sort((a, b) => a - b)[times.length >> 1];
      const form = "form" in options ? options.form : "turn_index";
      t.log(`${method}, ${form}: best ${best.toFixed(1)} ms, median ${median.toFixed(1)} ms`);
      // About 5 ms on a free core. The bound is for machines with other work; it catches a cost that grew tenfold.
      t.true(best < 60);
    }
  }
});
