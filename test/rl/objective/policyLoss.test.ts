import test from "ava";
import { InputError } from "../../../lib/errors.js";
import {
  aggregationWeights,
  klEstimators,
  type Outputs,
  type PolicyLossOptions,
  type PolicyRow,
  policyLoss,
  turnRanges,
} from "../../../rl/objective/index.js";
import { checkGradients, close, evaluate, golden, near, uniforms } from "./support.js";

const aggregations = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"] as const;

test("clipped and dual-clipped loss per token, its aggregates and metrics", (t) => {
  const rows: PolicyRow[] = [
    { turns: turnRanges([1, 1, 1, 1, 1, 0]), oldLogprobs: Array(6).fill(-1), advantages: [1, 1, 1, -1, -1, -2] },
  ];
  const outputs = [{ logprobs: [-1, -0.7, -1.5, -1.3, 0.5, -0.9] }];
  const value = (options: PolicyLossOptions) => evaluate(policyLoss(options), rows, outputs).value;
  close(t, value({}), 0.1986939, 1e-6);
  close(t, value({ aggregation: "seq-mean-token-sum" }), 0.9934693, 1e-6);
  close(t, value({ aggregation: "seq-mean-token-mean" }), 0.1986939, 1e-6);
  close(t, value({ aggregation: "seq-mean-token-sum-norm", normLength: 6 }), 0.1655782, 1e-6);
  close(t, value({ clipHigh: 0.28 }), 0.1826939, 1e-6);
  const perToken = [-1, -1.2, -0.6065307, 0.8, 3, 2.2103419];
  perToken.forEach((expected, at) => {
    close(
      t,
      evaluate(policyLoss(), [{ ...rows[0], turns: [{ start: at, end: at + 1 }] }], outputs).value,
      expected,
      1e-6,
    );
  });
  const { clipfrac, ppo_kl, clipfrac_lower, pg_loss } = evaluate(policyLoss(), rows, outputs).metrics;
  near(t, [[clipfrac, ppo_kl, clipfrac_lower, pg_loss]], [[0.4, -0.2, 0.2, 0.1986939]], 1e-6);
});

test("aggregates of a table of losses; an empty row counts only where rows are counted", (t) => {
  const losses = [
    [1, 2, 3],
    [4, 5, 6],
  ];
  const aggregate = (masks: number[][], aggregation: (typeof aggregations)[number]) => {
    const weights = aggregationWeights(masks.map(turnRanges), aggregation, 3);
    return losses.reduce((sum, row, i) => sum + weights[i] * row.reduce((s, x, j) => s + x * masks[i][j], 0), 0);
  };
  near(
    t,
    [
      aggregations.map((name) =>
        aggregate(
          [
            [1, 1, 0],
            [1, 1, 1],
          ],
          name,
        ),
      ),
    ],
    [[3.6, 9, 3.25, 6]],
    1e-12,
  );
  near(
    t,
    [
      aggregations.map((name) =>
        aggregate(
          [
            [1, 1, 0],
            [0, 0, 0],
          ],
          name,
        ),
      ),
    ],
    [[1.5, 1.5, 1.5, 1]],
    1e-12,
  );
  near(
    t,
    [
      aggregations.map((name) =>
        aggregate(
          [
            [0, 0, 0],
            [0, 0, 0],
          ],
          name,
        ),
      ),
    ],
    [[0, 0, 0, 0]],
    0,
  );
});

test("values, metrics and gradients equal the reference's on its golden cases", (t) => {
  let cases = 0;
  for (const { old_log_prob, log_prob, advantages, response_mask, vanilla } of golden.policy) {
    const rows = response_mask.map((mask, i) => ({
      turns: turnRanges(mask),
      oldLogprobs: old_log_prob[i],
      advantages: advantages[i],
    }));
    const outputs = log_prob.map((logprobs) => ({ logprobs }));
    for (const v of vanilla) {
      const { agg, clip_low, clip_high, clip_c } = v;
      const normLength = response_mask[0].length;
      const loss = policyLoss({
        aggregation: agg,
        clipLow: clip_low,
        clipHigh: clip_high,
        dualClip: clip_c,
        normLength,
      });
      const { value, gradients, metrics } = evaluate(loss, rows, outputs);
      close(t, value, v.loss, 1e-6, agg);
      near(
        t,
        gradients.map((g) => g.logprobs),
        v.grad_log_prob,
        1e-6,
        agg,
      );
      const { clipfrac, ppo_kl, clipfrac_lower } = metrics;
      near(t, [[clipfrac, ppo_kl, clipfrac_lower]], [[v.clipfrac, v.approx_kl, v.clipfrac_lower]], 1e-6, agg);
      cases++;
    }
  }
  t.is(cases, 16);
});

test("KL estimators and their derivatives equal the reference's on its golden cases", (t) => {
  const names = { kl: "k1", abs: "abs", mse: "k2", low_var_kl: "k3" } as const;
  let numbers = 0;
  for (const { log_prob, ref_log_prob, response_mask, kl } of golden.policy) {
    for (const [name, estimator] of Object.entries(names)) {
      const { value, derivative } = klEstimators[estimator];
      const { value: values, grad_sum } = kl[name as keyof typeof names];
      const table = (f: (i: number, j: number) => number) => log_prob.map((row, i) => row.map((_, j) => f(i, j)));
      const d = (i: number, j: number) => log_prob[i][j] - ref_log_prob[i][j];
      numbers += near(
        t,
        table((i, j) => value(d(i, j))),
        values,
        1e-9,
        name,
      );
      numbers += near(
        t,
        table((i, j) => response_mask[i][j] * derivative(d(i, j))),
        grad_sum,
        1e-9,
        name,
      );
    }
  }
  t.log(`${numbers} numbers`);
});

test("KL estimators on numbers, the clamp of k3 and its derivative included", (t) => {
  const d = [-1 - -1.2, -2 - -1, -0.5 - -0.5, -30 - -1];
  near(t, [d.map(klEstimators.k1.value)], [[0.2, -1, 0, -29]], 1e-6);
  near(t, [d.map(klEstimators.k2.value)], [[0.02, 0.5, 0, 420.5]], 1e-6);
  near(t, [d.map(klEstimators.k3.value)], [[0.0187308, 0.7182817, 0, 10]], 1e-6);
  near(t, [d.map(klEstimators.abs.value)], [[0.2, 1, 0, 29]], 1e-6);
  near(t, [d.map(klEstimators.k3.derivative)], [[0.1812693, -1.7182817, 0, 0]], 1e-6);
});

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
  t.deepEqual(Object.keys(evaluate(policyLoss(), rows, outputs).metrics).slice(4), ["kl", "entropy"]);
  const bare = rows.map(({ referenceLogprobs: _, ...row }) => row);
  const names = Object.keys(
    evaluate(
      policyLoss(),
      bare,
      outputs.map(({ logprobs }) => ({ logprobs })),
    ).metrics,
  );
  t.deepEqual(names, ["pg_loss", "ppo_kl", "clipfrac", "clipfrac_lower"]);
});

test("an unchanged policy has ratio 1: the loss is the mean of −A and its gradient −A", (t) => {
  const { rows, outputs } = batch(4);
  const same = rows.map((row, i) => ({ ...row, oldLogprobs: outputs[i].logprobs }));
  const { gradients, metrics } = evaluate(policyLoss(), same, outputs);
  const count = rows.reduce((sum, { turns }) => sum + turns.reduce((s, { start, end }) => s + end - start, 0), 0);
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
