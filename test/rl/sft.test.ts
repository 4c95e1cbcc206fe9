import test from "ava";
import { tokenizeDialogue } from "../../rl/dialogue.js";
import { quickstartEnvironment } from "../../rl/environments/quickstart/game.js";
import { quickstartScript } from "../../rl/environments/quickstart/scripts.js";
import { scriptBatches } from "../../rl/environments/warmup.js";
import { forwardRows, Learner } from "../../rl/learner.js";
import { sftLoss } from "../../rl/objective/index.js";
import { rollout } from "../../rl/rollout.js";
import { fineTune, learningRate, type SftStep, shuffledBatches } from "../../rl/sft.js";
import { maxDifference } from "../models/fixtures.js";
import { valuesOf } from "../models/tiny.js";
import { talker } from "./support.js";

const options = {
  ...{ steps: 120, batchSize: 16, warmupSteps: 5, lr: 1e-2, schedule: "linear" as const, finalLr: 0.1 },
  ...{ betas: [0.9, 0.95] as [number, number], weightDecay: 0, gradClip: 1 },
};

/** A tiny model fine-tuned on the game's random scripts. */
async function fineTuned() {
  const parts = talker();
  const batch = scriptBatches(parts, quickstartScript, { size: options.batchSize, games: 1000, seed: 1 });
  const steps: SftStep[] = [];
  const learner = new Learner(parts.policy, options);
  await fineTune(learner, options, batch, (step) => void steps.push(step));
  return { ...parts, batch, steps };
}

const trained = fineTuned();

test("the loss falls from a guess among all words to the format and its free choices", async (t) => {
  const { steps, tokenizer } = await trained;
  const mean = (part: readonly SftStep[]) => part.reduce((sum, { loss }) => sum + loss, 0) / part.length;
  t.is(steps.length, options.steps);
  t.deepEqual(
    steps.map(({ step }) => step),
    steps.map((_, i) => i + 1),
  );
  t.true(mean(steps.slice(0, 3)) > 0.8 * Math.log(tokenizer.vocabSize));
  t.true(mean(steps.slice(-10)) < 1);
  t.true(steps.every(({ gradNorm }) => gradNorm > 0));
});

test("the loss is the cross-entropy of the assistant's tokens, in nats a token", async (t) => {
  const { policy, batch } = await trained;
  const rows = batch(3);
  const outputs = await forwardRows(policy, rows);
  const scored = rows.flatMap(({ turns }, i) =>
    turns.flatMap(({ start, end }) => Array.from(outputs[i].logprobs).slice(start, end)),
  );
  const expected = -scored.reduce((a, b) => a + b, 0) / scored.length;
  const losses: SftStep[] = [];
  const frozen = { ...options, steps: 1, lr: 0 };
  const before = await valuesOf(policy.parameters);
  await fineTune(
    new Learner(policy, frozen),
    frozen,
    () => rows,
    (step) => void losses.push(step),
  );
  t.true(Math.abs(losses[0].loss - expected) < 1e-5);
  t.is(
    losses[0].tokens,
    rows.reduce((sum, { tokens }) => sum + tokens.length, 0),
  );
  t.deepEqual(await valuesOf(policy.parameters), before);
});

test("each step takes one optimizer step at its own learning rate", async (t) => {
  const few = { ...options, steps: 4, warmupSteps: 2 };
  const [model, other] = [talker(), talker()];
  const batch = scriptBatches(model, quickstartScript, { size: 4, games: 100, seed: 1 });
  await fineTune(new Learner(model.policy, few), few, batch);
  const learner = new Learner(other.policy, few);
  for (const [i, share] of [0.5, 1, 0.55, 0.1].entries()) {
    const rows = batch(i + 1).map(({ tokens, turns }) => {
      const weights = tokens.map((_, at) => Number(turns.some(({ start, end }) => start <= at && at < end)));
      return { tokens, turns, weights };
    });
    await learner.forwardBackward(rows, sftLoss());
    await learner.optimStep({ lr: share * few.lr });
  }
  const [a, b] = [await valuesOf(model.policy.parameters), await valuesOf(other.policy.parameters)];
  a.forEach((values, i) => {
    t.true(maxDifference(values, b[i]) < 1e-6);
  });
});

test("a request to stop that comes through the event loop, as signals do, ends it after the current step", async (t) => {
  const parts = talker();
  const batch = scriptBatches(parts, quickstartScript, { size: 2, games: 1000, seed: 1 });
  const controller = new AbortController();
  setImmediate(() => controller.abort());
  const four = { ...options, steps: 4 };
  const steps: SftStep[] = [];
  const onStep = (step: SftStep) => void steps.push(step);
  await fineTune(new Learner(parts.policy, four), four, batch, onStep, { signal: controller.signal });
  t.is(steps.length, 1);
});

test("a dialogue is tokenised as the rollout of the same words is recorded", async (t) => {
  const { policy, chat, tokenizer } = await trained;
  const { trajectories } = await rollout({
    ...{ policy, chat, environment: quickstartEnvironment(), seed: 1, temperature: 1 },
    ...{ maxTurns: 3, maxTurnTokens: 8, maxTokens: 60 },
    items: Array.from({ length: 60 }, (_, task) => ({ task, sample: 0 })),
  });
  const special = new Set(tokenizer.specialTokens.values());
  const clean = trajectories.filter(({ tokens, turns }) =>
    turns.every(
      ({ start, end, stop }) => stop === "stop" && !tokens.slice(start, end - 1).some((id) => special.has(id)),
    ),
  );
  t.true(clean.length > 20, `${clean.length} conversations without a stray control token`);
  t.true(clean.some(({ turns }) => turns.length === 3));
  for (const { messages, tokens, turns } of clean) {
    const dialogue = tokenizeDialogue(messages, { chat, tokenizer });
    t.deepEqual(dialogue.tokens, [...tokens]);
    t.deepEqual(
      dialogue.turns,
      turns.map(({ start, end }) => ({ start, end })),
    );
  }
});

test("a dialogue without an assistant's turn cannot be learnt from", (t) => {
  t.throws(() => tokenizeDialogue([{ role: "user", content: "help" }], talker()), { message: /no assistant turn/ });
});

test("warm-up batches differ by step and seed, and can be had again", (t) => {
  const parts = talker();
  const batches = (seed: number) => scriptBatches(parts, quickstartScript, { size: 4, games: 100, seed });
  t.deepEqual(batches(1)(5), batches(1)(5));
  t.notDeepEqual(batches(1)(5), batches(1)(6));
  t.notDeepEqual(batches(1)(5), batches(2)(5));
});

test("shuffled batches take every item once an epoch, in another order each time, whatever step is asked first", (t) => {
  const items = Array.from({ length: 10 }, (_, i) => i);
  const batch = shuffledBatches(items, 4, 1);
  const drawn = Array.from({ length: 10 }, (_, i) => batch(i + 1)).flat();
  const epochs = [0, 10, 20, 30].map((from) => drawn.slice(from, from + 10));
  for (const epoch of epochs)
    t.deepEqual(
      epoch.toSorted((a, b) => a - b),
      items,
    );
  t.is(new Set(epochs.map(String)).size, 4);
  t.deepEqual(shuffledBatches(items, 4, 1)(9), drawn.slice(32, 36));
  t.notDeepEqual(shuffledBatches(items, 4, 2)(1), drawn.slice(0, 4));
});

test("the learning rate rises over the warm-up, then falls to its share at the last step", (t) => {
  const lr = learningRate({ ...options, warmupSteps: 4 }, 20);
  t.deepEqual(
    [1, 2, 4].map(lr),
    [0.25, 0.5, 1].map((share) => share * options.lr),
  );
  t.true(Math.abs(lr(20) - 0.1 * options.lr) < 1e-12);
  t.true(Math.abs(lr(12) - 0.55 * options.lr) < 1e-12);
  t.is(learningRate({ ...options, schedule: "constant" }, 1)(1), options.lr / 5);
});
