import test from "ava";
import { prmPairLoss, turnRanges } from "../../../rl/objective/index.js";
import { close, evaluate, near } from "./support.js";

/** Rows of one token whose log-ratios are q; two groups. */
function mini(q: number[], labels: number[], groups = q.map((_, i) => i % 2)) {
  return {
    rows: labels.map((label, i) => ({ turns: turnRanges([1, 0]), referenceLogprobs: [0, 0], label, group: groups[i] })),
    outputs: q.map((x) => ({ logprobs: [x, 9] })),
  };
}

const softplus = (x: number) => Math.log1p(Math.exp(x));

test("siblings are taken inside a group only, as constants to the gradient", (t) => {
  const { rows, outputs } = mini([0.4, 1, -0.2, 2], [1, 1, 0, 0]);
  const { value, gradients } = evaluate(prmPairLoss({ beta: 1, form: "dpo" }), rows, outputs);
  const gaps = [0.4 + 0.2, 1 - 2, 0.4 + 0.2, 1 - 2];
  close(t, value, gaps.reduce((sum, gap) => sum + softplus(-gap), 0) / 4, 1e-12);
  const slope = (gap: number) => 1 / (1 + Math.exp(gap)) / 4;
  near(
    t,
    gradients.map((g) => g.logprobs),
    [
      [-slope(0.6), 0],
      [-slope(-1), 0],
      [slope(0.6), 0],
      [slope(-1), 0],
    ],
    1e-12,
  );
});

test("a group whose labels are equal compares with 0", (t) => {
  const { rows, outputs } = mini([3, -1], [1, 1], [0, 0]);
  close(
    t,
    evaluate(prmPairLoss({ beta: 1, form: "dpo" }), rows, outputs).value,
    (softplus(-3) + softplus(1)) / 2,
    1e-12,
  );
});

test("best of n weighs by the rank of label or of score", (t) => {
  const { rows, outputs } = mini([3, -1, 1], [1, 0, 0], [0, 0, 0]);
  const parts = [softplus(-3), softplus(-1 - 3), softplus(1 - 3)];
  const value = (form: "bon_acc" | "bon_rm") => evaluate(prmPairLoss({ beta: 1, form }), rows, outputs).value;
  close(t, value("bon_acc"), 3 * (parts[0] + (parts[1] + parts[2]) * (2 / 3) ** 2), 1e-12);
  close(t, value("bon_rm"), 3 * (parts[0] + parts[1] / 9 + (parts[2] * 4) / 9), 1e-12);
});

test("rows without turns or label take no part, and extreme ratios stay finite", (t) => {
  for (const form of ["dpo", "bon_acc", "bon_rm"] as const) {
    const { rows, outputs } = mini([1e4, -1e4, 1, 2], [0, 1, 1, 0], [0, 0, 0, 0]);
    const loss = prmPairLoss({ beta: 1, form });
    const plain = evaluate(loss, rows, outputs);
    t.true([plain.value, ...plain.gradients.flatMap((g) => [...g.logprobs])].every(Number.isFinite));
    const useless = [
      { ...rows[0], turns: [] },
      { ...rows[1], label: Number.NaN },
    ];
    const more = evaluate(loss, [...useless, ...rows], [outputs[0], outputs[1], ...outputs]);
    close(t, more.value, plain.value, 1e-12);
    t.deepEqual(more.gradients.slice(2), plain.gradients);
    t.is(evaluate(loss, useless, outputs.slice(0, 2)).value, 0);
  }
});
