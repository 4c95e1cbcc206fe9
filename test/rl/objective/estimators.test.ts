import test from "ava";
import {
  type AdvantageOptions,
  advantageEstimators,
  assignCredit,
  creditMethods,
  estimateAdvantages,
  gae,
  grpo,
  outcomeAdvantages,
  outcomeEstimators,
  type RewardRow,
  reinforcePlusPlus,
  remax,
  turnRanges,
} from "../../../rl/objective/index.js";
import { f1, near, uniforms } from "./support.js";
import { atTurns } from "./vectors.js";

function row(group: number, outcome: number, lengths: number[]): RewardRow {
  const turns = turnRanges(lengths.flatMap((length) => [...Array<number>(length).fill(1), 0]));
  const tokens = lengths.reduce((a, b) => a + b + 1, 0);
  return { group, outcome, turns, tokens, values: new Float64Array(tokens) };
}

const inputs = (rows: readonly RewardRow[]) => ({
  values: rows.map(({ values }) => values),
  baselines: new Map(rows.map(({ group }) => [group, 0.5])),
});

test("every credit method works with every estimator: finite, 0 outside the turns, excluded rows counted", (t) => {
  const rows = [...f1, { ...f1[0], failed: true }, { ...f1[1], turns: [] }, { ...f1[2], outcome: Number.NaN }];
  for (const method of creditMethods) {
    for (const estimator of advantageEstimators) {
      const { advantages, returns, counts } = estimateAdvantages(
        rows,
        assignCredit(rows, { method }),
        { estimator },
        inputs(rows),
      );
      t.true(
        [...advantages, ...returns].every((stream) => stream.every(Number.isFinite)),
        `${method} ${estimator}`,
      );
      t.true(advantages.slice(4).every((stream) => stream.every((value) => value === 0)));
      t.is(advantages[0][2], 0);
      const { failed, noTurns, nonFinite } = counts;
      t.deepEqual([failed, noTurns, nonFinite], [1, 1, 1]);
    }
  }
});

test("equal outcomes, turn counts and uniform credit give exactly 0 with every group-relative estimator", (t) => {
  const random = uniforms(5);
  const relative = advantageEstimators.filter((name) => !["ppo", "remax", "reinforce_plus_plus"].includes(name));
  for (const n of [2, 3, 7, 8]) {
    for (const outcome of [1, 0.1, 0.7234567, -3.3]) {
      const rows = Array.from({ length: n }, () =>
        row(
          0,
          outcome,
          Array.from({ length: 3 }, () => 1 + Math.floor(random() * 5)),
        ),
      );
      for (const estimator of relative) {
        for (const method of ["uniform", "shared"] as const) {
          const { advantages } = estimateAdvantages(rows, assignCredit(rows, { method }), { estimator });
          t.true(
            advantages.every((stream) => stream.every((value) => value === 0)),
            `${estimator} ${method}`,
          );
        }
      }
    }
  }
});

test("GRPO: a group with a single turn, or none of whose turns differ, has advantage 0", (t) => {
  const rows = [row(0, 1, [2]), row(1, 0.5, [1, 1]), row(1, 0.5, [2, 2])];
  const { advantages } = grpo(rows, assignCredit(rows, { method: "uniform" }), { byDeviation: true });
  t.true(advantages.every((stream) => stream.every((value) => value === 0)));
});

test("GRPO compares each source of reward with its own kind", (t) => {
  const rows = [row(0, 1, [1, 1]), row(0, 0, [1, 1])];
  const both = assignCredit(rows, { method: "uniform", outcomeCoefficient: 1 });
  const { advantages } = grpo(rows, both, { byDeviation: false });
  near(
    t,
    atTurns(advantages, rows),
    [
      [1, 0.75],
      [-1, -0.75],
    ],
    1e-12,
  );
});

test("Dr. GRPO and RLOO of a shared outcome differ by n/(n−1)", (t) => {
  const rows = [1, 0, 0.5, 0.25].map((outcome) => row(0, outcome, [2, 1]));
  const shared = assignCredit(rows, { method: "shared" });
  const of = (options: AdvantageOptions) => estimateAdvantages(rows, shared, options).advantages;
  near(
    t,
    of({ form: "row_total", normalise: "none" }),
    of({ estimator: "dr_grpo" }).map((stream) => stream.map((value) => (4 / 3) * value)),
    1e-12,
  );
});

test("REINFORCE++: returns go on across the user's messages, and with the reference start again", (t) => {
  const rows = [row(0, 1, [1, 2])];
  const shared = assignCredit(rows, { method: "shared" });
  const of = (acrossTurns: boolean) => reinforcePlusPlus(rows, shared, { gamma: 0.5, acrossTurns }).returns;
  near(t, of(true), [[0.25, 0, 0.5, 1, 0]], 1e-12);
  near(t, of(false), [[0, 0, 0.5, 1, 0]], 1e-12);
});

test("GAE skips the user's messages, wherever they stand and whatever values they have", (t) => {
  const random = uniforms(9);
  const rows = [row(0, 0.7, [3, 1, 2])];
  const values = Float64Array.from({ length: rows[0].tokens }, random);
  const noisy = values.slice();
  for (const t of [3, 5, 8]) noisy[t] = 100;
  const rewards = assignCredit(rows, { method: "uniform" });
  const options = { gamma: 0.9, lambda: 0.7 };
  near(t, gae(rows, rewards, [noisy], options).advantages, gae(rows, rewards, [values], options).advantages, 0);
  const whole = [{ ...row(0, 0.7, [6]), tokens: 7 }];
  const joined = Float64Array.from([...values.slice(0, 3), values[4], ...values.slice(6, 8), 0]);
  const ends = {
    excluded: [undefined],
    rows: [{ turns: new Float64Array(1), conversation: 0, tokens: new Float64Array(7) }],
  };
  for (const at of [2, 3, 5]) ends.rows[0].tokens[at] = 0.7 / 3;
  const [a] = gae(rows, rewards, [values], options).returns;
  const [b] = gae(whole, ends, [joined], options).returns;
  near(t, [[...a.slice(0, 3), a[4], ...a.slice(6, 8)]], [b.slice(0, 6)], 1e-12);
});

test("with λ = 1 a perfect critic leaves no advantage, and returns are the rewards to go", (t) => {
  const rows = [row(0, 1, [2, 2])];
  const values = new Float64Array(6).fill(1);
  const { advantages, returns } = gae(rows, assignCredit(rows, { method: "shared" }), [values], { normalise: "none" });
  near(t, advantages, [[0, 0, 0, 0, 0, 0]], 0);
  near(t, returns, [[1, 1, 0, 1, 1, 0]], 0);
});

test("estimators of whole rewards do not mind where a reward stands", (t) => {
  const rows = f1.map((each) => ({ ...each, group: 0 }));
  for (const estimator of outcomeEstimators) {
    const of = (method: "norm_itpo" | "uniform" | "shared") =>
      outcomeAdvantages(rows, assignCredit(rows, { method }), { estimator }).advantages;
    near(t, of("norm_itpo"), of("shared"), 1e-9, estimator);
    near(t, of("uniform"), of("shared"), 1e-9, estimator);
  }
});

test("leave-one-out and Dr. GRPO baselines are unbiased up to their known factor (Monte Carlo)", (t) => {
  const random = uniforms(12);
  const trials = 4000;
  for (const estimator of ["rloo_vectorized", "dr_grpo", "reinforce_plus_plus_baseline"] as const) {
    let [sum, squares] = [0, 0];
    for (let trial = 0; trial < trials; trial++) {
      const rows = Array.from({ length: 4 }, () => row(0, random() < 0.3 ? 1 : 0, [1, 1]));
      const shared = assignCredit(rows, { method: "shared" });
      const [first] = estimateAdvantages(rows, shared, { estimator, normalise: "none" }).advantages;
      sum += first[0];
      squares += first[0] ** 2;
    }
    t.true(Math.abs(sum / trials) < 4 * Math.sqrt(squares / trials / trials), `${estimator}: ${sum / trials}`);
  }
});

test("what an estimator lacks is named", (t) => {
  const shared = assignCredit(f1, { method: "shared" });
  t.throws(() => estimateAdvantages(f1, shared, { estimator: "ppo" }), { message: /needs a critic/ });
  t.throws(() => remax(f1, shared, { baselines: new Map([[0, 1]]) }), { message: /no greedy conversation/ });
});
