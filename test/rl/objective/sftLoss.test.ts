import test from "ava";
import { sftLoss } from "../../../rl/objective/index.js";
import { checkGradients, close, evaluate, near } from "./support.js";

const rows = [{ weights: [5, 1, 0, 0.5] }, { weights: [0, 0, 2] }];
const outputs = [{ logprobs: [-9, -1, -2, -3] }, { logprobs: [-9, -4, -0.5] }];

test("the loss is the weighted mean of −logprob over the mini-batch's tokens; entry 0 is not used", (t) => {
  const { value, gradients, metrics } = evaluate(sftLoss(), rows, outputs);
  close(t, value, (1 + 1.5 + 1) / 3.5, 1e-15);
  near(
    t,
    gradients.map((g) => g.logprobs),
    [
      [0, -1 / 3.5, 0, -0.5 / 3.5],
      [0, 0, -2 / 3.5],
    ],
    1e-15,
  );
  t.is(metrics.sft_loss, value);
});

test("gradients equal central differences", (t) => {
  t.true(checkGradients(t, sftLoss(), rows, outputs) > 0.1);
});

test("tokens without weight may have an infinite logprob", (t) => {
  const { value } = evaluate(sftLoss(), rows, [{ logprobs: [0, -1, Number.NEGATIVE_INFINITY, -3] }, outputs[1]]);
  t.true(Number.isFinite(value));
});

test("nothing to learn gives 0, and arrays that do not match are named", (t) => {
  t.is(evaluate(sftLoss(), [{ weights: [0, 0] }], [{ logprobs: [0, -1] }]).value, 0);
  t.throws(() => evaluate(sftLoss(), rows, [outputs[1], outputs[0]]), {
    message: /weights has 4 entries, the outputs have 3/,
  });
});
