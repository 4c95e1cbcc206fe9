import test from "ava";
import { chartFigure, draw, smooth, thin, ticks } from "../../../rl/report/chart.js";

test("ticks are round, evenly spaced and inside the axis", (t) => {
  t.deepEqual(ticks([0, 1], 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  t.deepEqual(ticks([-0.05, 1.05], 5), [0, 0.5, 1]);
  t.deepEqual(ticks([0, 80], 5), [0, 20, 40, 60, 80]);
  t.deepEqual(ticks([3.1e-6, 8.2e-6], 5), [4e-6, 6e-6, 8e-6]);
});

test("smoothing keeps a constant and a line's middle, takes noise out and leaves gaps", (t) => {
  t.deepEqual(smooth([3, 3, 3, 3]), [3, 3, 3, 3]);
  const line = smooth(Array.from({ length: 101 }, (_, i) => i));
  t.true(Math.abs(line[50]! - 50) < 1e-9, "no lag");
  const noisy = smooth(Array.from({ length: 200 }, (_, i) => (i % 2 === 0 ? 1 : -1)));
  t.true(Math.abs(noisy[100]!) < 0.2);
  t.deepEqual(smooth([2, null, 2]), [2, null, 2]);
});

test("thinning bounds the points and keeps the extremes", (t) => {
  const steps = Array.from({ length: 10_000 }, (_, i) => i);
  const values = steps.map((i) => (i === 777 ? 9 : i === 5_000 ? -9 : i % 50 === 4 ? null : Math.sin(i)));
  const thinned = thin({ name: "a", steps, values }, 400);
  t.true(thinned.steps.length <= 400 && thinned.steps.length > 300);
  t.is(thinned.values[thinned.steps.indexOf(777)], 9);
  t.is(thinned.values[thinned.steps.indexOf(5_000)], -9);
  t.deepEqual(
    [...thinned.steps].sort((a, b) => a - b),
    [...thinned.steps],
  );
});

test("a value that was not finite leaves a gap in the curve", (t) => {
  const series = [{ name: "a", steps: [0, 1, 2, 3], values: [0, null, 1, 1] }];
  const { markup } = chartFigure(draw({ title: "A", series, range: [0, 1] }), "id", [0, 3]);
  const path = /class="line s1" d="([^"]*)"/.exec(markup)?.[1];
  t.is(path, "M0.0 954.5M666.7 45.5L1000.0 45.5");
});

test("levels are dashed lines at their height, with their names", (t) => {
  const series = [{ name: "training", steps: [0, 10], values: [0, 1] }];
  const levels = [{ label: "best fixed script", value: 0.375 }];
  const { markup } = chartFigure(draw({ title: "Outcome", series, levels }), "id", [0, 10]);
  t.true(markup.includes("best fixed script 0.375"));
  t.true(markup.includes('class="level" d="M0 613.6H1000"'));
});

test("one point, equal values and gaps alone make a chart", (t) => {
  for (const values of [[0], [5], [null], [2, 2, 2]]) {
    const drawing = draw({ title: "A", series: [{ name: "a", steps: values.map((_, i) => i), values }] });
    const { markup } = chartFigure(drawing, "id", [0, 1]);
    t.false(/NaN|Infinity|undefined/.test(markup), markup);
    t.true(drawing.y[1] > drawing.y[0]);
  }
});
