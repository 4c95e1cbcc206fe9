import test from "ava";
import { randomStream, tensor } from "../../lib/index.js";
import { type Qwen, score } from "../../models/index.js";
import { forwardRows, Learner, type LearnerRow } from "../../rl/learner.js";
import { type Loss, type Outputs, sftLoss } from "../../rl/objective/index.js";
import { compare, maxDifference } from "../models/fixtures.js";
import { tinyConfig, tinyModel, valuesOf } from "../models/tiny.js";

/** Conversations of different length: two turns, one turn, none, a turn at the very end. */
function rowsOf(seed: number, shapes = [[4, 3, 2, 4, 2], [2, 9], [6], [11, 1], [1, 1, 1, 1, 7, 2]]): LearnerRow[] {
  const random = randomStream(seed);
  return shapes.map((runs) => {
    const tokens = runs.flatMap((length) => Array.from({ length }, () => random.int(tinyConfig.vocabSize)));
    const ends = runs.map((_, i) => runs.slice(0, i + 1).reduce((a, b) => a + b, 0));
    const turns = runs.flatMap((length, i) => (i % 2 === 1 ? [{ start: ends[i] - length, end: ends[i] }] : []));
    return { tokens, turns };
  });
}

const rows = rowsOf(1);
const scored = rows.reduce((sum, { turns }) => sum + turns.reduce((s, { start, end }) => s + end - start, 0), 0);

/**
 * A loss that uses both outputs, nonlinearly: the mean over the scored tokens of a·l² + b·sin h, with a and b from the
 * place of the token. `calls` counts how often it was asked.
 */
function curved(scope: "row" | "batch" = "row") {
  const loss = {
    name: "curved",
    scope,
    calls: 0,
    needs: { entropy: true, values: false },
    bind: (all: readonly LearnerRow[]) => (outputs: readonly Outputs[], indices: readonly number[]) => {
      loss.calls++;
      let value = 0;
      const gradients = indices.map((i, j) => {
        const size = all[i].tokens.length;
        const gradient = { logprobs: new Float64Array(size), entropy: new Float64Array(size) };
        for (const { start, end } of all[i].turns) {
          for (let t = start; t < end; t++) {
            const [a, b] = [(1 + (t % 3)) / scored, (2 - (i % 4)) / scored];
            const [l, h] = [outputs[j].logprobs[t], outputs[j].entropy![t]];
            value += a * l * l + b * Math.sin(h);
            gradient.logprobs[t] = 2 * a * l;
            gradient.entropy[t] = b * Math.cos(h);
          }
        }
        return gradient;
      });
      return { value, gradients, metrics: { value } };
    },
  } satisfies Loss<LearnerRow> & { calls: number };
  return loss;
}

/** Gradients of one mini-batch, flat, and the metrics. */
async function gradients(
  model: Qwen,
  loss: Loss<LearnerRow>,
  { microBatchTokens = 8192, parts = [rows] }: { microBatchTokens?: number; parts?: readonly LearnerRow[][] } = {},
) {
  const learner = new Learner(model, { microBatchTokens });
  const metrics: Record<string, number>[] = [];
  for (const part of parts) metrics.push(await learner.forwardBackward(part, loss));
  const flat: number[] = [];
  for (const parameter of model.parameters.values()) flat.push(...((await parameter.grad?.data()) ?? []));
  learner.optimizer.zeroGrad();
  return { flat, value: metrics.reduce((sum, { value }) => sum + value, 0) };
}

test("packed rows give the outputs and the gradients of the rows one by one", async (t) => {
  const model = tinyModel();
  const together = await forwardRows(model, rows);
  for (const [i, row] of rows.entries()) {
    const [alone] = await forwardRows(model, [row]);
    t.true(maxDifference(together[i].logprobs, alone.logprobs) < 1e-5);
    t.true(maxDifference(together[i].entropy!, alone.entropy!) < 1e-5);
  }
  const packed = await gradients(model, curved());
  const single = await gradients(model, weighted(rows), { parts: rows.map((row) => [row]) });
  t.true(compare(single.flat, packed.flat).relative < 1e-6);
});

/** `curved` of rows that come one at a time: each knows its place in the whole. */
function weighted(all: readonly LearnerRow[]): Loss<LearnerRow> {
  const bound = curved().bind(all);
  return {
    ...curved(),
    bind: (some) => (outputs) =>
      bound(
        outputs,
        some.map((row) => all.indexOf(row)),
      ),
  };
}

test("how rows are cut into micro-batches changes nothing", async (t) => {
  const model = tinyModel();
  const whole = await gradients(model, curved());
  for (const microBatchTokens of [1, 7, 16, 40]) {
    const cut = await gradients(model, curved(), { microBatchTokens });
    t.true(compare(cut.flat, whole.flat).relative < 1e-6, `${microBatchTokens}`);
    t.true(Math.abs(cut.value - whole.value) < 1e-6 * Math.abs(whole.value));
  }
});

test("a loss over the batch sees it once and gives the gradients of the same loss by rows", async (t) => {
  const model = tinyModel();
  const byRow = await gradients(model, curved("row"), { microBatchTokens: 12 });
  const loss = curved("batch");
  const byBatch = await gradients(model, loss, { microBatchTokens: 12 });
  t.is(loss.calls, 1);
  t.true(compare(byBatch.flat, byRow.flat).relative < 1e-6);
  t.true(Math.abs(byBatch.value - byRow.value) < 1e-6 * Math.abs(byRow.value));
});

test("recomputing layers in backward changes no bit", async (t) => {
  const model = tinyModel();
  const kept = await gradients(model, curved());
  model.recompute = true;
  t.deepEqual(await gradients(model, curved()), kept);
  t.true(kept.flat.some((value) => value !== 0));
});

test("recomputing layers holds less memory at the peak", async (t) => {
  const long = rowsOf(2, [
    [10, 50],
    [10, 50],
    [10, 50],
  ]);
  const peak = async (recompute: boolean) => {
    const model = tinyModel({ config: { ...tinyConfig, layers: 6 } });
    model.recompute = recompute;
    const before = model.backend.memory().bytes;
    await gradients(model, curved(), { parts: [long] });
    return model.backend.memory().peakBytes - before;
  };
  t.true((await peak(true)) < 0.7 * (await peak(false)));
});

test("the gradient through log-probs and entropy is the host loss's slope", async (t) => {
  const model = tinyModel({ dtype: "f64" });
  const value = async () => curved().bind(rows)(await forwardRows(model, rows), [...rows.keys()]).value;
  await new Learner(model).forwardBackward(rows, curved());
  const random = randomStream(3);
  for (const [name, parameter] of model.parameters) {
    const [at, gradient] = [await parameter.data(), Array.from(await parameter.grad!.data())];
    const direction = Float64Array.from(at, () => random.normal());
    const valueAt = async (step: number) => {
      const moved = Float64Array.from(at, (x, i) => x + step * direction[i]);
      using source = tensor(moved, { backend: model.backend, dtype: "f64", shape: parameter.shape });
      parameter.assign(source);
      return value();
    };
    const slope = ((await valueAt(1e-5)) - (await valueAt(-1e-5))) / 2e-5;
    await valueAt(0);
    const expected = gradient.reduce((sum, x, i) => sum + x * direction[i], 0);
    t.true(Math.abs(expected) > 1e-3, `${name}: its gradient ${expected} shows nothing`);
    t.true(Math.abs(slope - expected) < 1e-6 * Math.abs(expected), `${name}: ${slope}, by backward ${expected}`);
  }
});

test("log-probs are those at the learner's temperature", async (t) => {
  const model = tinyModel();
  const [cold] = await new Learner(model, { temperature: 0.5 }).forward(rows);
  const { logprobs } = await score(model, [rows[0].tokens], { temperature: 0.5 });
  for (const { start, end } of rows[0].turns) {
    t.true(maxDifference(Array.from(cold.logprobs).slice(start, end), logprobs[0].slice(start - 1, end - 1)) < 1e-5);
  }
});

test("tokens that are not scored have zeros, and rows without turns nothing else", async (t) => {
  const outputs = await forwardRows(tinyModel(), rows, { microBatchTokens: 10 });
  rows.forEach(({ tokens, turns }, i) => {
    const isScored = (token: number) => turns.some(({ start, end }) => start <= token && token < end);
    t.is(outputs[i].logprobs.length, tokens.length);
    Array.from(outputs[i].logprobs).forEach((value, token) => {
      t.is(value !== 0, isScored(token));
      t.is(outputs[i].entropy![token] > 0, isScored(token));
    });
  });
  const [empty] = await forwardRows(tinyModel(), [{ tokens: [1, 2, 3], turns: [] }]);
  t.deepEqual(
    [Array.from(empty.logprobs), Array.from(empty.entropy!)],
    [
      [0, 0, 0],
      [0, 0, 0],
    ],
  );
});

test("a mini-batch without a scored token has no gradient", async (t) => {
  const model = tinyModel();
  const learner = new Learner(model);
  t.deepEqual(await learner.forwardBackward([{ tokens: [1, 2, 3], turns: [], weights: [0, 0, 0] }], sftLoss()), {});
  t.true([...model.parameters.values()].every(({ grad }) => grad === undefined));
});

test("token 0 cannot be scored", async (t) => {
  await t.throwsAsync(forwardRows(tinyModel(), [{ tokens: [1, 2, 3], turns: [{ start: 0, end: 2 }] }]), {
    message: /token 0 has nothing before it/,
  });
});

test("a loss that needs values is refused", async (t) => {
  const loss = { ...curved(), needs: { entropy: false, values: true } };
  await t.throwsAsync(new Learner(tinyModel()).forwardBackward(rows, loss), { message: /no value head/ });
});

test("a gradient that is not finite is dropped, and training goes on as if it had not been", async (t) => {
  const broken: Loss<LearnerRow> = {
    ...curved(),
    bind: (all) => (_, indices) => {
      const gradients = indices.map((i) => ({ logprobs: new Float64Array(all[i].tokens.length).fill(Number.NaN) }));
      return { value: Number.NaN, gradients, metrics: {} };
    },
  };
  const [model, other] = [tinyModel(), tinyModel()];
  const [learner, untroubled] = [new Learner(model), new Learner(other)];
  const before = await valuesOf(model.parameters);
  await learner.forwardBackward(rows, broken);
  const report = await learner.optimStep();
  t.true(report.skipped);
  t.false(Number.isFinite(report.gradNorm));
  t.deepEqual(await valuesOf(model.parameters), before);
  for (const each of [learner, untroubled]) {
    await each.forwardBackward(rows, curved());
    t.false((await each.optimStep()).skipped);
  }
  t.deepEqual(await valuesOf(model.parameters), await valuesOf(other.parameters));
  t.notDeepEqual(await valuesOf(model.parameters), before);
});

test("optimStep reports the norm before clipping, and clears the gradients", async (t) => {
  const model = tinyModel();
  const learner = new Learner(model, { gradClip: 1e-3 });
  const { flat } = await gradients(model, curved());
  await learner.forwardBackward(rows, curved());
  const { gradNorm } = await learner.optimStep();
  t.true(Math.abs(gradNorm / Math.hypot(...flat) - 1) < 1e-5);
  t.true([...model.parameters.values()].every(({ grad }) => grad === undefined));
});

test("fifty AdamW steps on packed rows and on rows one by one lose the same", async (t) => {
  const data = rows.filter(({ turns }) => turns.length > 0).map((row) => ({ ...row, weights: weightsOf(row) }));
  const total = data.reduce((sum, { weights }) => sum + weights.reduce((a, b) => a + b, 0), 0);
  const run = async (parts: (typeof data)[]) => {
    const learner = new Learner(tinyModel(), { lr: 3e-3, weightDecay: 0 });
    const losses: number[] = [];
    for (let step = 0; step < 50; step++) {
      let loss = 0;
      for (const part of parts) {
        const share = part.reduce((sum, { weights }) => sum + weights.reduce((a, b) => a + b, 0), 0) / total;
        loss += share * (await learner.forwardBackward(part, scaled(sftLoss(), share))).sft_loss;
      }
      losses.push(loss);
      await learner.optimStep();
    }
    return losses;
  };
  const [packed, single] = [await run([data]), await run(data.map((row) => [row]))];
  packed.forEach((loss, step) => {
    t.true(Math.abs(single[step] - loss) < 1e-4 * loss, `step ${step}: ${single[step]} and ${loss}`);
  });
  t.true(packed[49] < packed[0] / 2);
});

function weightsOf({ tokens, turns }: LearnerRow): Float64Array {
  const weights = new Float64Array(tokens.length);
  for (const { start, end } of turns) weights.fill(1, start, end);
  return weights;
}

/** A loss with its gradient times `factor`. */
function scaled<Row>(loss: Loss<Row>, factor: number): Loss<Row> {
  return {
    ...loss,
    bind: (all) => {
      const bound = loss.bind(all);
      return (outputs, indices) => {
        const result = bound(outputs, indices);
        const gradients = result.gradients.map(({ logprobs }) => ({ logprobs: logprobs.map((x) => factor * x) }));
        return { ...result, gradients };
      };
    },
  };
}

test("a step leaves nothing behind but weights and moments", async (t) => {
  const model = tinyModel();
  const learner = new Learner(model, { microBatchTokens: 16 });
  const before = model.backend.memory();
  for (const scope of ["row", "batch"] as const) {
    await learner.forward(rows);
    await learner.forwardBackward(rows, curved(scope));
    await learner.optimStep();
    const { bytes, buffers } = model.backend.memory();
    t.deepEqual([bytes, buffers], [before.bytes, before.buffers]);
  }
});
