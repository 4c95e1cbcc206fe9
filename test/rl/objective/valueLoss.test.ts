import test from "ava";
import { explainedVariance, turnRanges, valueLoss } from "../../../rl/objective/index.js";
import { checkGradients, close, evaluate, near, uniforms } from "./support.js";

const random = uniforms(4);
const numbers = (size: number) => Float64Array.from({ length: 8 }, () => size * (2 * random() - 1));
const rows = [
  [0, 1, 1, 1, 0, 1, 1, 0],
  [0, 0, 0, 0, 0, 0, 0, 0],
  [1, 1, 1, 1, 1, 1, 1, 1],
].map((mask) => ({
  turns: turnRanges(mask),
  oldValues: numbers(1),
  returns: numbers(1),
}));
const outputs = rows.map(() => ({ logprobs: new Float64Array(8), values: numbers(1) }));

test("gradients equal central differences, with every aggregation, and some values are clipped", (t) => {
  const { metrics } = evaluate(valueLoss({ clip: 0.3 }), rows, outputs);
  t.true(metrics.vf_clipfrac > 0.1 && metrics.vf_clipfrac < 0.9);
  for (const aggregation of [
    "token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
  ] as const) {
    t.true(checkGradients(t, valueLoss({ clip: 0.3, aggregation, normLength: 8 }), rows, outputs) > 0.01);
  }
});

test("a critic that knows the returns explains all of their variance, a constant one nothing", (t) => {
  const turns = rows.map((row) => row.turns);
  const returns = rows.map((row) => row.returns);
  close(t, explainedVariance(returns, returns, turns), 1, 1e-12);
  close(
    t,
    explainedVariance(
      returns.map((row) => row.map(() => 7)),
      returns,
      turns,
    ),
    0,
    1e-4,
  );
  t.is(explainedVariance([], [], []), 1);
});

test("outputs without values, and arrays that do not match, are named", (t) => {
  t.throws(
    () =>
      evaluate(
        valueLoss(),
        rows,
        outputs.map(({ logprobs }) => ({ logprobs })),
      ),
    { message: /value head/ },
  );
  t.throws(() => evaluate(valueLoss(), rows.with(0, { ...rows[0], returns: new Float64Array(1) }), outputs), {
    message: /returns has 1/,
  });
  near(t, [[evaluate(valueLoss(), [rows[1]], [outputs[1]]).value]], [[0]], 0);
});
