import test from "ava";
import { InputError } from "../../../lib/errors.js";
import {
  type Outputs,
  type PolicyLossOptions,
  type PolicyRow,
  policyLoss,
  policyLossNames,
  turnRanges,
} from "../../../rl/objective/index.js";
import { checkGradients, close, evaluate, near, uniforms } from "./support.js";

/** Random rows whose ratios reach beyond the clip ranges; advantages per token, or one a row. */
function batch(seed: number, perRow = false): { rows: PolicyRow[]; outputs: Outputs[] } {
  const random = uniforms(seed);
  const numbers = (low: number, high: number) => Float64Array.from({ length: 12 }, () => low + (high - low) * random());
  const masks = [
    [0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1],
    [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    Array<number>(12).fill(0),
    [0, 0, 1],
  ];
  return {
    rows: masks.map((mask, i) => ({
      turns: turnRanges(mask),
      oldLogprobs: numbers(-2, -0.5),
      advantages: perRow ? new Float64Array(12).fill([1, -0.5, 0, 0.7][i]) : numbers(-2, 2),
      importance: numbers(0.2, 2),
    })),
    outputs: masks.map(() => ({ logprobs: numbers(-2, -0.5) })),
  };
}

/** Options under which every branch of a surrogate is taken by the random rows. */
const settings: Readonly<Record<(typeof policyLossNames)[number], PolicyLossOptions>> = {
  vanilla: { dualClip: 1.5 },
  gspo: { clipLow: 0.01, clipHigh: 0.01 },
  cispo: {},
  gpg: {},
  clip_cov: { covShare: 0.2, covLow: 0.05, covHigh: 1 },
  kl_cov: { covShare: 0.2, covKl: 0.3 },
  geo_mean: {},
};

for (const loss of policyLossNames) {
  test(`${loss}: gradients equal central differences, corrections for the sampler included`, (t) => {
    // Those of GSPO are its loss's where advantages are equal along a row; CISPO's weights are constants, see below.
    const { rows, outputs } = batch(7, loss === "gspo");
    const plain = rows.map(({ importance: _, ...row }) => row);
    const options = { ...settings[loss], loss };
    if (loss === "cispo") return void t.pass();
    t.true(checkGradients(t, policyLoss(options), loss === "gspo" ? plain : rows, outputs) > 1e-3);
    t.true(checkGradients(t, policyLoss(options), plain, outputs) > 1e-3);
  });

  test(`${loss}: an unchanged policy has the plain policy gradient where advantages are equal along a row`, (t) => {
    const { rows, outputs } = batch(8, true);
    const same = rows.map(({ importance: _, ...row }, i) => ({ ...row, oldLogprobs: outputs[i].logprobs }));
    // No token's covariance lies above 100; KL-Cov's extra term is made to vanish.
    const { gradients, metrics } = evaluate(
      policyLoss({ loss, covLow: 100, covHigh: 200, covKl: 0, aggregation: "seq-mean-token-mean" }),
      same,
      outputs,
    );
    same.forEach(({ turns, advantages }, i) => {
      const count = turns.reduce((sum, { start, end }) => sum + end - start, 0);
      for (const { start, end } of turns) {
        for (let at = start; at < end; at++) {
          close(t, gradients[i].logprobs[at], -advantages[at] / (3 * count), 1e-12, `${loss} ${i} ${at}`);
        }
      }
    });
    t.is(Math.abs(metrics.ppo_kl), 0);
  });

  test(`${loss}: corrections for the sampler of 1 change nothing, of 2 double the gradient`, (t) => {
    const { rows, outputs } = batch(9);
    const of = (importance?: number) => {
      const corrected = rows.map((row) => ({
        ...row,
        importance: importance === undefined ? undefined : new Float64Array(12).fill(importance),
      }));
      return evaluate(policyLoss({ ...settings[loss], loss }), corrected, outputs).gradients.map((g) => g.logprobs);
    };
    near(t, of(1), of(), 1e-9);
    near(
      t,
      of(2),
      of().map((row) => row.map((g) => 2 * g)),
      1e-9,
    );
  });

  test(`${loss}: extreme log-probs and advantages, and rows without tokens, stay finite`, (t) => {
    for (const size of [1e4, -1e4]) {
      const row = {
        turns: [{ start: 0, end: 4 }],
        oldLogprobs: [0, 0, size, size],
        advantages: [1e4, -1e4, 1e4, -1e4],
      };
      const empty = { ...row, turns: [] };
      const one = { ...row, turns: [{ start: 1, end: 2 }] };
      const outputs = [{ logprobs: [size, size, 0, -size] }];
      for (const rows of [[row], [empty], [one]]) {
        const { value, gradients, metrics } = evaluate(policyLoss({ loss }), rows, outputs);
        t.true([value, ...gradients[0].logprobs, ...Object.values(metrics)].every(Number.isFinite));
      }
    }
  });
}

test("CISPO weighs every token's log-prob by a constant clipped ratio: no token loses its gradient", (t) => {
  const rows = [{ turns: [{ start: 0, end: 3 }], oldLogprobs: [-1, -1, -1], advantages: [1, 1, -2] }];
  const outputs = [{ logprobs: [-1, 0, -3] }];
  const { value, gradients, metrics } = evaluate(policyLoss({ loss: "cispo" }), rows, outputs);
  near(t, [gradients[0].logprobs], [[-1 / 3, -1.2 / 3, (2 * 0.8) / 3]], 1e-12);
  close(t, value, (1 + 0 - 2 * 0.8 * 3) / 3, 1e-12);
  close(t, metrics.clipfrac, 2 / 3, 1e-12);
});

test("GSPO's gradient is the token form's: −A·s of each token, and 0 for a row beyond the clip range", (t) => {
  const turns = [{ start: 0, end: 2 }];
  const rows = [
    { turns, oldLogprobs: [-1, -1], advantages: [1, -3] },
    { turns, oldLogprobs: [-1, -1], advantages: [1, -1] },
  ];
  const outputs = [{ logprobs: [-0.9, -1.1] }, { logprobs: [-0.5, -0.5] }];
  const { gradients } = evaluate(policyLoss({ loss: "gspo" }), rows, outputs);
  near(
    t,
    [gradients[0].logprobs, gradients[1].logprobs],
    [
      [-0.25, 0.75],
      [0, Math.exp(0.5) / 4],
    ],
    1e-12,
  );
});

test("GMPO clips each token's log-ratio on the side on which its advantage pushes", (t) => {
  const rows = [{ turns: [{ start: 0, end: 2 }], oldLogprobs: [-1, -1], advantages: [1, 1] }];
  const up = evaluate(policyLoss({ loss: "geo_mean", clipHigh: 0.4 }), rows, [{ logprobs: [0, -1.5] }]);
  close(t, up.value, -Math.exp((0.4 - 0.5) / 2), 1e-12);
  near(t, [up.gradients[0].logprobs], [[0, up.value / 2]], 1e-12);
  t.is(up.metrics.clipfrac, 1);
});

test("Clip-Cov leaves tokens out that the seed draws; KL-Cov charges those of the largest covariance", (t) => {
  const { rows, outputs } = batch(11);
  const one = { ...settings.clip_cov, covShare: 0.05 };
  const dropped = (seed: number) =>
    evaluate(policyLoss({ ...one, loss: "clip_cov", seed }), rows, outputs).gradients.map((g) =>
      [...g.logprobs].map((value) => value === 0),
    );
  t.deepEqual(dropped(1), dropped(1));
  t.true([2, 3, 4, 5].some((seed) => JSON.stringify(dropped(seed)) !== JSON.stringify(dropped(1))));
  const { metrics } = evaluate(policyLoss({ ...one, loss: "clip_cov" }), rows, outputs);
  close(t, metrics.clipfrac, 1 / 20, 1e-12);
  const held = evaluate(policyLoss({ ...settings.kl_cov, loss: "kl_cov" }), rows, outputs);
  const free = evaluate(policyLoss({ ...settings.kl_cov, loss: "kl_cov", covKl: 0 }), rows, outputs);
  const extra = held.gradients.flatMap((g, i) =>
    [...g.logprobs].filter((x, at) => x !== free.gradients[i].logprobs[at]),
  );
  t.is(extra.length, 4);
});

test("what a surrogate cannot do is named", (t) => {
  const input = { instanceOf: InputError };
  for (const loss of ["gspo", "geo_mean"] as const) {
    const error = t.throws(() => policyLoss({ loss, aggregation: "token-mean" }), input);
    t.regex(error.message, /always seq-mean-token-mean/);
  }
  t.regex(t.throws(() => policyLoss({ covShare: 0 }), input).message, /covShare/);
});
