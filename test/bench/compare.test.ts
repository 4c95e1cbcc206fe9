import test from "ava";
import { type CellResult, cellResult, cells, stepTo } from "../../bench/compareCells.js";
import { compareTable } from "../../bench/compareTable.js";
import { loadTrainConfig } from "../../rl/config.js";
import { openMetrics } from "../../rl/report/metrics.js";
import { temporaryFolder } from "../temporary.js";

const share = (value: number) => ({ share: value, low: 0, high: 1, trials: 10 });

const result = (cell: string, seed: number, after: number, more: Partial<CellResult> = {}): CellResult => ({
  ...{ game: "smalltalk", cell, seed, overrides: [], before: 0.2, after, stepTo80: null, alignment: null, seconds: 50 },
  turns: { start: 3.5, middle: 3.5, end: 3.5 },
  curves: { outcome: [], turns: [] },
  ...more,
});

test("three credits with four estimators, and every form of RLOO that is another: each is a valid configuration", async (t) => {
  for (const credit of ["norm_itpo", "itpo", "shared"]) {
    for (const estimator of ["rloo-turn_index", "grpo", "ppo", "reinforce_plus_plus"]) {
      t.true(cells.has(`${credit}/${estimator}`), `${credit}/${estimator}`);
    }
  }
  t.is(cells.size, 19);
  for (const game of ["quickstart", "smalltalk"]) {
    for (const [cell, overrides] of cells) {
      const { credit, advantage } = await loadTrainConfig(game, overrides);
      const [method, estimator] = cell.split("/");
      t.is(credit.method, method as typeof credit.method);
      t.is(estimator, advantage.estimator === "rloo" ? `rloo-${advantage.form}` : advantage.estimator);
    }
  }
});

test("the step to a level is the end of the first five steps whose mean is there", (t) => {
  t.is(stepTo(0.8, [1, 1, 1, 1]), null);
  t.is(stepTo(0.8, [0, 1, 1, 1, 1]), 5);
  t.is(stepTo(0.8, [0, 0, 1, 1, 1, 0.5, 1]), 7);
  t.is(stepTo(0.8, Array(20).fill(0.79)), null);
});

test("a finished run's line holds its turns at start, middle and end and the share of its own credit", (t) => {
  const folder = temporaryFolder(t);
  const metrics = openMetrics(folder);
  for (let step = 0; step <= 8; step++) {
    if (step > 0) metrics.log({ "outcome/mean": step > 1 ? 0.9 : 0, "rollout/turns": 3 + step / 10 });
    if (step % 4 === 0) metrics.log({ "held_out/turns": 3 + step / 4 });
    metrics.flush(step);
  }
  metrics.close();
  const methods = (norm: number, sums: number) => ({ norm_itpo: share(norm), itpo: share(sums) });
  const run = {
    ...{ folder, before: 0.2, after: 0.9, seconds: 12 },
    alignment: [
      { step: 4, methods: methods(0.5, 0.6) },
      { step: 8, methods: methods(0.7, 0.8) },
    ],
  };
  const line = cellResult({ game: "smalltalk", cell: "itpo/grpo", seed: 3, overrides: [] }, run);
  t.like(line, {
    ...{ game: "smalltalk", cell: "itpo/grpo", seed: 3, before: 0.2, after: 0.9, seconds: 12 },
    turns: { start: 3, middle: 4, end: 5 },
    alignment: { middle: 0.6, end: 0.8 },
    stepTo80: 6,
  });
  t.deepEqual(line.curves.turns, [3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 3.8]);
  const shared = cellResult(
    { game: "smalltalk", cell: "shared/grpo", seed: 3, overrides: [] },
    { ...run, alignment: [] },
  );
  t.is(shared.alignment, null);
});

test("the table has mean ± standard error, and says how many runs have a value where not all have", (t) => {
  const table = compareTable(
    [
      result("shared/grpo", 0, 0.8, { stepTo80: 40 }),
      result("shared/grpo", 1, 0.9),
      result("norm_itpo/ppo", 0, 0.7),
      result("shared/grpo", 0, 0.25, { game: "quickstart" }),
    ],
    ["norm_itpo/ppo", "shared/grpo"],
  );
  const [smalltalk, quickstart] = table.split("\n\n");
  const lines = smalltalk.split("\n");
  t.is(lines.length, 4);
  t.true(lines[0].startsWith("| smalltalk | seeds | held-out outcome | steps to 0.8 |"));
  t.true(lines[2].startsWith("| norm_itpo/ppo | 1 | 0.700 | – |"));
  t.true(lines[3].startsWith("| shared/grpo | 2 | 0.850 ± 0.050 | 40 (1) | 3.50 ± 0.00 |"));
  t.is(quickstart.split("\n").length, 3);
  for (const line of lines) t.is(line.split("|").length, lines[0].split("|").length);
});
