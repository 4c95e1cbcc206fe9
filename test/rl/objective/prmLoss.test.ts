import test from "ava";
import { prmLoss, turnRanges } from "../../../rl/objective/index.js";
import { checkGradients, close, evaluate, type Matrix } from "./support.js";

/** Rows whose log-ratios are q: the reference model's log-probs are 0. */
function mini(q: Matrix, masks: Matrix, labels: number[]) {
  return {
    rows: masks.map((mask, i) => ({ turns: turnRanges(mask), referenceLogprobs: mask.map(() => 0), label: labels[i] })),
    outputs: q.map((logprobs) => ({ logprobs })),
  };
}

const q = [
  [1, 2, 3],
  [-4, 0, 1],
  [100, 100, 0],
];
const masks = [
  [1, 1, 0],
  [1, 0, 1],
  [1, 1, 0],
];

// x, y, exact loss and derivative, the reference's loss and derivative
const saturation = [
  [15, 0, 15, 1, 14.8437729, 1],
  [17, 0, 17, 1, 100, 0],
  [-80, 1, 80, -1, 80, -1.8e-23],
  [-90, 1, 90, -1, 100, 0],
  [17, 0.3, 11.9, 0.7, 70, 0],
  [150, 0, 150, 1, 100, 0],
  [1e4, 0, 1e4, 1, 100, 0],
  [-1e4, 1, 1e4, -1, 100, 0],
  [0, 0.5, Math.LN2, 0, Math.LN2, 0],
];

for (const [x, y, loss, derivative, referenceLoss, referenceDerivative] of saturation) {
  test(`confidently wrong rows are corrected, except in the reference's form: x ${x}, y ${y}`, (t) => {
    const { rows, outputs } = mini([[x]], [[1]], [y]);
    const exact = evaluate(prmLoss({ beta: 1 }), rows, outputs);
    close(t, exact.value, loss, 1e-7);
    close(t, exact.gradients[0].logprobs[0], derivative, 1e-6);
    const reference = evaluate(prmLoss({ beta: 1, reference: true }), rows, outputs);
    close(t, reference.value, referenceLoss, 1e-6);
    close(t, reference.gradients[0].logprobs[0] / (referenceDerivative || 1), referenceDerivative ? 1 : 0, 0.01);
  });
}

test("gradients equal central differences, soft labels and user tokens included", (t) => {
  const { rows, outputs } = mini(
    [
      [0.3, -1, 2, 5],
      [-0.4, 0.1, 0, 9],
      [1, 1, 1, 1],
    ],
    [
      [0, 1, 0, 1],
      [1, 1, 0, 0],
      [1, 1, 1, 1],
    ],
    [1, 0.3, 0],
  );
  t.true(checkGradients(t, prmLoss({ beta: 0.5 }), rows, outputs) > 0.05);
});

test("a model equal to its reference has loss ln 2 and q = 0 for any label", (t) => {
  for (const label of [0, 0.4, 1]) {
    const rows = [{ turns: [{ start: 1, end: 3 }], referenceLogprobs: [0, -2, -3], label }];
    const { value, metrics } = evaluate(prmLoss({ beta: 0.05 }), rows, [{ logprobs: [0, -2, -3] }]);
    close(t, value, Math.LN2, 1e-12);
    t.is(metrics.raw_reward, 0);
  }
});

test("metrics: the mean row sum of q, and how often its sign agrees with the label", (t) => {
  const { rows, outputs } = mini(q, masks, [1, 0, 0.25]);
  const { raw_reward, dpo_acc_abs } = evaluate(prmLoss({ beta: 0.05 }), rows, outputs).metrics;
  close(t, raw_reward, (3 - 3 + 200) / 3, 1e-12);
  close(t, dpo_acc_abs, 2 / 3, 1e-12);
});

test("a row without turns or without a label is left out of the mean", (t) => {
  const { rows, outputs } = mini(q, masks, [1, 0, 0.25]);
  const { value } = evaluate(prmLoss({ beta: 0.05 }), rows, outputs);
  const useless = [
    { ...rows[0], turns: [] },
    { ...rows[0], label: Number.NaN },
  ];
  const more = evaluate(prmLoss({ beta: 0.05 }), [...rows, ...useless], [...outputs, outputs[0], outputs[0]]);
  close(t, more.value, value, 1e-15);
  t.true(more.gradients.slice(3).every(({ logprobs }) => logprobs.every((g) => g === 0)));
  t.is(evaluate(prmLoss({ beta: 0.05 }), useless, [outputs[0], outputs[0]]).value, 0);
});
