import test from "ava";
import { createCpu } from "../../lib/index.js";
import { itpoStep, sample } from "../../rl/itpo.js";
import { Trainer } from "../../rl/trainer.js";
import { valuesOf } from "../models/tiny.js";
import { scripted, talker, tinyTraining } from "./support.js";

/** An even number of characters said is right; a conversation now and then fails. */
const environment = scripted({
  score: (messages, task, sample) => {
    if (task % 5 === 0 && sample === 1) throw new Error("the judge is ill");
    return { accuracy: messages.map(({ content }) => content.length).reduce((a, b) => a + b, 0) % 2 };
  },
});

test("the algorithm in one file takes the trainer's steps", async (t) => {
  const config = await tinyTraining(t, "prm.leadSteps=1");
  const trainers = [1, 2].map(() => {
    const { policy, chat } = talker({ backend: createCpu({ poison: true }) });
    return new Trainer(config, { policy, chat, environment });
  });
  const [whole, { prm, policy, reference, parts }] = trainers;
  const before = await valuesOf(policy.model.parameters);
  for (const step of [1, 2, 3]) {
    const expected = await whole.step(step);
    const task = { config, chat: parts.chat, environment };
    const { outcome, rewards_BK, advantages_BT } = await itpoStep(
      { policy, prm: prm!, reference },
      task,
      whole.items(step),
      step,
    );
    const done = expected.trajectories.flatMap(({ failure }, i) => (failure === undefined ? [i] : []));
    t.is(outcome, expected.metrics["outcome/mean"]);
    done.forEach((i, at) => {
      const isNear = (a: ArrayLike<number>, b: ArrayLike<number>) =>
        a.length === b.length && Array.from(a).every((value, k) => Math.abs(value - b[k]) < 1e-4);
      t.true(isNear(rewards_BK[at], expected.turnRewards[i]), `step ${step}, rewards of ${i}`);
      t.true(isNear(advantages_BT[at], expected.advantages[i]), `step ${step}, advantages of ${i}`);
    });
  }
  const [a, b] = await Promise.all(trainers.map((each) => valuesOf(each.policy.model.parameters)));
  t.notDeepEqual(b, before);
  a.forEach((values, p) => {
    t.true(values.every((value, i) => Math.abs(value - b[p][i]) < 1e-5));
  });
});

test("its conversations are those that did not fail", async (t) => {
  const { policy, chat } = talker();
  const config = await tinyTraining(t);
  const items = [0, 1, 2].map((number) => ({ task: 5, sample: number }));
  const talks = await sample(policy, { config, chat, environment }, items, { split: "train", step: 1 });
  t.deepEqual(
    talks.map((talk) => talk.sample),
    [0, 2],
  );
});
