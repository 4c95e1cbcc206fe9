import test from "ava";
import { InputError } from "../../../lib/errors.js";
import { type Outputs, type PolicyRow, policyLoss, turnRanges } from "../../../rl/objective/index.js";
import { checkGradients, close, evaluate, uniforms } from "./support.js";

const aggregations = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"] as const;

/** Random rows, in which old and new log-probs differ enough that every branch of the clipping is taken. */
function batch(seed: number): { rows: PolicyRow[]; outputs: Outputs[] } {
  const random = uniforms(seed);
  const numbers = (low: number, high: number) => Float64Array.from({ length: 12 }, () => low + (high - low) * random());
  const masks = [
    [0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1],
    [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    Array<number>(12).fill(0),
    [0, 0, 1],
  ];
  return {
    rows: masks.map((mask) => ({
      turns: turnRanges(mask),
      oldLogprobs: numbers(-3, 0),
      advantages: numbers(-2, 2),
      referenceLogprobs: numbers(-3, 0),
    })),
    outputs: masks.map(() => ({ logprobs: numbers(-3, 0), entropy: numbers(0, 3) })),
  };
}

test("gradients equal central differences: every aggregation, estimator and the entropy bonus", (t) => {
  const { rows, outputs } = batch(1);
  const { clipfrac, clipfrac_lower } = evaluate(policyLoss(), rows, outputs).metrics;
  t.true(clipfrac > 0.1 && clipfrac < 0.9 && clipfrac_lower > 0);
  for (const aggregation of aggregations) {
    for (const estimator of ["k1", "k2", "k3", "abs"] as const) {
      const options = { aggregation, normLength: 12, kl: { coefficient: 0.3, estimator }, entropyCoefficient: 0.1 };
      t.true(checkGradients(t, policyLoss(options), rows, outputs, `${aggregation} ${estimator}`) > 0.01);
    }
  }
});

test("the parts add up: policy gradient, entropy, KL", (t) => {
  const { rows, outputs } = batch(2);
  const options = { kl: { coefficient: 0.3 }, entropyCoefficient: 0.1 };
  const { value, metrics } = evaluate(policyLoss(options), rows, outputs);
  close(t, value, metrics.pg_loss + 0.3 * metrics.kl - 0.1 * metrics.entropy, 1e-12);
  t.deepEqual(policyLoss(options).needs, { entropy: true, values: false });
  t.false(policyLoss().needs.entropy);
});

test("KL and entropy are measured where they can be, and no metric is invented", (t) => {
  const { rows, outputs } = batch(3);
  t.deepEqual(Object.keys(evaluate(policyLoss(), rows, outputs).metrics).slice(6), ["kl", "entropy"]);
  const bare = rows.map(({ referenceLogprobs: _, ...row }) => row);
  const names = Object.keys(
    evaluate(
      policyLoss(),
      bare,
      outputs.map(({ logprobs }) => ({ logprobs })),
    ).metrics,
  );
  t.deepEqual(names, ["pg_loss", "ppo_kl", "clipfrac", "clipfrac_lower", "ratio_excess", "off_policy"]);
});

test("an unchanged policy has ratio 1: the loss is the mean of −A and its gradient −A", (t) => {
  const { rows, outputs } = batch(4);
  const same = rows.map((row, i) => ({ ...row, oldLogprobs: outputs[i].logprobs }));
  const { gradients, metrics } = evaluate(policyLoss(), same, outputs);
  const count = rows.reduce((sum, { turns }) => sum + turns.reduce((s, { start, end }) => s + end - start, 0), 0);
  t.deepEqual([metrics.ratio_excess, metrics.off_policy], [0, 0]);
  rows.forEach(({ turns, advantages }, i) => {
    for (const { start, end } of turns) {
      for (let k = start; k < end; k++) close(t, gradients[i].logprobs[k], -advantages[k] / count, 1e-15);
    }
  });
  t.is(metrics.ppo_kl, 0);
  t.is(metrics.clipfrac, 0);
});

test("extreme log-probs and advantages stay finite", (t) => {
  const turns = [{ start: 0, end: 4 }];
  for (const size of [1e4, -1e4]) {
    const rows = [
      {
        turns,
        oldLogprobs: [0, 0, size, size],
        advantages: [1e4, -1e4, 1e4, -1e4],
        referenceLogprobs: [0, -size, 0, size],
      },
    ];
    const outputs = [{ logprobs: [size, size, 0, -size] }];
    for (const estimator of ["k1", "k2", "k3", "abs"] as const) {
      const { value, gradients, metrics } = evaluate(policyLoss({ kl: { coefficient: 1, estimator } }), rows, outputs);
      t.true([value, ...gradients[0].logprobs, ...Object.values(metrics)].every(Number.isFinite));
    }
  }
});

test("no rows and no sampled tokens give 0", (t) => {
  const empty = [{ turns: [], oldLogprobs: [1, 2], advantages: [3, 4] }];
  for (const aggregation of aggregations) {
    const loss = policyLoss({ aggregation, normLength: 2 });
    t.is(evaluate(loss, [], []).value, 0);
    const { value, gradients } = evaluate(loss, empty, [{ logprobs: [0, 0] }]);
    t.is(value, 0);
    t.deepEqual([...gradients[0].logprobs], [0, 0]);
  }
});

test("what is missing or out of range is named", (t) => {
  const input = { instanceOf: InputError };
  t.regex(t.throws(() => policyLoss({ dualClip: 1 }), input).message, /dualClip/);
  t.regex(t.throws(() => policyLoss({ clipLow: -1 }), input).message, /clipLow/);
  const { rows, outputs } = batch(5);
  const norm = policyLoss({ aggregation: "seq-mean-token-sum-norm" });
  t.regex(t.throws(() => evaluate(norm, rows, outputs), input).message, /normLength/);
  const bare = rows.map(({ referenceLogprobs: _, ...row }) => row);
  t.throws(() => policyLoss({ kl: { coefficient: 1 } }).bind(bare), { message: /referenceLogprobs/ });
  const noEntropy = outputs.map(({ logprobs }) => ({ logprobs }));
  t.throws(() => evaluate(policyLoss({ entropyCoefficient: 1 }), rows, noEntropy), { message: /entropy/ });
  t.throws(() => evaluate(policyLoss(), rows, [{ logprobs: [1] }, ...outputs.slice(1)]), {
    message: /oldLogprobs has 12/,
  });
});
