/** Gradients of every loss through the tensors of a model, against central differences along random directions. */
import test from "ava";
import { randomStream, tensor } from "../../lib/index.js";
import type { Qwen } from "../../models/index.js";
import { freshValueHead } from "../../rl/critic.js";
import { Learner, type LearnerRow } from "../../rl/learner.js";
import {
  type Loss,
  type PolicyRow,
  type PrmPairRow,
  policyLoss,
  policyLossNames,
  prmLoss,
  prmPairLoss,
  type SftRow,
  sftLoss,
  type ValueRow,
  valueLoss,
} from "../../rl/objective/index.js";
import { tinyConfig, tinyModel } from "../models/tiny.js";

type Row = LearnerRow & PolicyRow & PrmPairRow & ValueRow & SftRow;

const random = randomStream(5);
const shapes = [[3, 3, 2, 4, 2], [2, 7], [4, 2, 1, 3], [5]];

/** Conversations with old log-probs near the model's own, so that some tokens are clipped and some are not. */
async function rowsFor(model: Qwen): Promise<Row[]> {
  const plain = shapes.map((runs): LearnerRow => {
    const ends = runs.map((_, i) => runs.slice(0, i + 1).reduce((a, b) => a + b, 0));
    return {
      tokens: Array.from({ length: ends.at(-1)! }, () => random.int(tinyConfig.vocabSize)),
      turns: runs.flatMap((length, i) => (i % 2 === 1 ? [{ start: ends[i] - length, end: ends[i] }] : [])),
    };
  });
  const outputs = await new Learner(model).forward(plain);
  return plain.map((row, i): Row => {
    const { logprobs } = outputs[i];
    const numbers = (center: ArrayLike<number>, size: number) =>
      Float64Array.from(center, (value) => value + size * random.normal());
    const zeros = new Float64Array(row.tokens.length);
    return {
      ...row,
      oldLogprobs: numbers(logprobs, 0.3),
      // Equal along a row: GSPO's gradient is its loss's only then.
      advantages: zeros.map(() => [1, -0.7, 0.4, 1][i]),
      referenceLogprobs: numbers(logprobs, 0.3),
      ...{ label: i % 2, group: 0 },
      oldValues: numbers(zeros, 0.3),
      returns: numbers(zeros, 1),
      weights: zeros.map(() => 1),
    };
  });
}

const losses: Readonly<Record<string, Loss<Row>>> = {
  // CISPO's weights are constants: its gradient is that of a linear function, checked where it is defined.
  ...Object.fromEntries(
    policyLossNames
      .filter((loss) => loss !== "cispo")
      .map((loss) => [
        loss,
        policyLoss({
          ...{ loss, covShare: 0.2, covLow: -1, covKl: 0.5 },
          ...(loss !== "gspo" && { entropyCoefficient: 0.3 }),
          kl: { coefficient: 0.2, estimator: "k3" },
        }),
      ]),
  ),
  prm: prmLoss({ beta: 0.5 }),
  dpo: prmPairLoss({ beta: 0.5, form: "dpo" }),
  value: valueLoss({ clip: 0.2 }),
  sft: sftLoss(),
};

/** The loss at the model's weights. */
async function valueAt(learner: Learner, rows: readonly Row[], loss: Loss<Row>): Promise<number> {
  return loss.bind(rows)(await learner.forward(rows), [...rows.keys()]).value;
}

for (const [name, loss] of Object.entries(losses)) {
  test(`${name}: the gradient of the weights is the derivative of the loss, whatever the micro-batches`, async (t) => {
    const model = tinyModel({ dtype: "f64" });
    const rows = await rowsFor(model);
    const valueHead = name === "value" ? freshValueHead(model) : undefined;
    const learner = new Learner(model, { valueHead });
    if (valueHead) {
      const start = Float64Array.from({ length: valueHead.size }, () => 0.2 * random.normal());
      valueHead.assign(tensor(start, { backend: model.backend, dtype: valueHead.dtype, shape: valueHead.shape }));
    }
    const gradient = async (microBatchTokens: number) => {
      const pass = new Learner(model, { valueHead, microBatchTokens });
      await pass.forwardBackward(rows, loss);
      const flat: number[][] = [];
      for (const parameter of pass.parameters.values()) {
        flat.push([...((await parameter.grad?.data()) ?? new Float64Array(parameter.size))]);
      }
      pass.optimizer.zeroGrad();
      pass.optimizer.dispose();
      return flat;
    };
    const whole = await gradient(8192);
    const cut = await gradient(12);
    const size = Math.hypot(...whole.flat());
    t.true(size > 1e-3, `norm ${size}`);
    whole.forEach((row, p) => {
      t.true(row.every((value, i) => Math.abs(value - cut[p][i]) < 1e-9 * size));
    });

    // The constants of DPO's siblings would move too; the test of the loss itself has its derivatives in closed form.
    if (name === "dpo") return;
    const parameters = [...learner.parameters.values()];
    const before = await Promise.all(parameters.map(async (parameter) => Float64Array.from(await parameter.data())));
    const direction = before.map((values) => values.map(() => random.normal()));
    const moved = async (step: number) => {
      parameters.forEach((parameter, p) => {
        const values = before[p].map((value, i) => value + step * direction[p][i]);
        using source = tensor(values, { backend: model.backend, dtype: parameter.dtype, shape: parameter.shape });
        parameter.assign(source);
      });
      return valueAt(learner, rows, loss);
    };
    const step = 1e-6;
    const numeric = ((await moved(step)) - (await moved(-step))) / (2 * step);
    const analytic = whole.reduce((sum, row, p) => sum + row.reduce((s, g, i) => s + g * direction[p][i], 0), 0);
    t.true(Math.abs(numeric - analytic) < 1e-5 * Math.max(1, Math.abs(analytic)), `${numeric}, ${analytic}`);
  });
}

test("TV-28: a reward model equal to its reference has loss ln 2; one step on outcome 1 raises its log-ratio", async (t) => {
  const model = tinyModel();
  const rows = (await rowsFor(model)).slice(0, 1);
  const reference = await new Learner(model).forward(rows);
  const labelled = rows.map((row, i) => ({ ...row, label: 1, referenceLogprobs: reference[i].logprobs }));
  const learner = new Learner(model, { lr: 1e-3 });
  const first = await learner.forwardBackward(labelled, prmLoss({ beta: 0.05 }));
  t.true(Math.abs(first.prm_loss - Math.LN2) < 1e-6);
  t.true(Math.abs(first.raw_reward) < 1e-6);
  await learner.optimStep();
  const { metrics } = prmLoss({ beta: 0.05 }).bind(labelled)(await learner.forward(labelled), [0]);
  t.true(metrics.raw_reward > 1e-3);
  t.true(metrics.prm_loss < first.prm_loss);
});
