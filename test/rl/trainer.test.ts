import test, { type ExecutionContext } from "ava";
import { createCpu } from "../../lib/index.js";
import type { Environment } from "../../rl/environment.js";
import { quickstartEnvironment } from "../../rl/environments/quickstart/game.js";
import {
  advantageEstimators,
  creditMethods,
  outcomeEstimators,
  policyLossNames,
  rlooForms,
} from "../../rl/objective/index.js";
import { Trainer, type TrainingStep } from "../../rl/trainer.js";
import { valuesOf } from "../models/tiny.js";
import { scripted, talker, tinyTraining } from "./support.js";

interface Setup {
  readonly overrides?: readonly string[];
  readonly environment?: Environment;
  /** Seed of a reward model of its own; default: a copy of the policy. */
  readonly prmSeed?: number;
}

/** A trainer on a backend of its own whose freed memory is NaN, and its first steps. */
async function trainerOf(t: ExecutionContext, { overrides = [], environment, prmSeed }: Setup = {}) {
  const backend = createCpu({ poison: true });
  const { policy, chat } = talker({ backend });
  const config = await tinyTraining(t, ...overrides);
  const prm = prmSeed === undefined ? undefined : talker({ backend, seed: prmSeed }).policy;
  return new Trainer(config, { policy, chat, prm, environment: environment ?? quickstartEnvironment() });
}

async function run(trainer: Trainer, steps: number): Promise<TrainingStep[]> {
  const done: TrainingStep[] = [];
  for (let step = 1; step <= steps; step++) done.push(await trainer.step(step));
  return done;
}

/** Metrics that do not measure time. */
function timeless({ metrics }: TrainingStep) {
  return Object.fromEntries(Object.entries(metrics).filter(([name]) => !/^time\/|tokens_per_s$/.test(name)));
}

/**
 * An outcome that a tiny fresh policy reaches now and then, so that groups differ: an even number of tokens said. A judge
 * likes long turns.
 */
const parity = scripted({
  score: (messages) => ({
    accuracy: messages.map(({ content }) => content.length).reduce((a, b) => a + b, 0) % 2,
    ...Object.fromEntries(
      messages.filter(({ role }) => role === "assistant").map(({ content }, k) => [`judge/${k + 1}`, content.length]),
    ),
  }),
});

for (const method of creditMethods) {
  test(`${method}: three steps learn, and every metric is finite`, async (t) => {
    const trainer = await trainerOf(t, { overrides: [`credit.method=${method}`], environment: parity });
    const before = await valuesOf(trainer.policy.model.parameters);
    const reference = await valuesOf(trainer.reference.parameters);
    t.deepEqual(reference, before);
    for (const { metrics, trajectories, advantages, turnRewards } of await run(trainer, 3)) {
      for (const [name, value] of Object.entries(metrics)) t.true(Number.isFinite(value), `${name} is ${value}`);
      t.is(trajectories.length, 9);
      t.is(metrics["policy/skipped"], 0);
      t.true(metrics["policy/grad_norm"] > 0);
      t.is("prm/loss" in metrics, ["norm_itpo", "itpo", "prime"].includes(method));
      t.is("critic/vf_loss" in metrics, method === "value");
      trajectories.forEach(({ tokens, turns }, i) => {
        t.deepEqual([advantages[i].length, turnRewards[i].length], [tokens.length, turns.length]);
      });
    }
    t.notDeepEqual(await valuesOf(trainer.policy.model.parameters), before);
    t.deepEqual(await valuesOf(trainer.reference.parameters), reference);
  });
}

for (const override of [
  ...["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"].map(
    (aggregation) => `policy.aggregation=${aggregation}`,
  ),
  ...rlooForms.map((form) => `advantage.form=${form}`),
  ...["k1", "k2", "k3", "abs", "k3+"].map((estimator) => `policy.klEstimator=${estimator}`),
  ...["whiten", "none"].map((normalise) => `advantage.normalise=${normalise}`),
  ...outcomeEstimators.map((estimator) => `advantage.estimator=${estimator} credit.method=shared`),
  ...creditMethods.flatMap((method) =>
    advantageEstimators
      .filter((estimator) => !(outcomeEstimators as readonly string[]).includes(estimator))
      .map((estimator) => `credit.method=${method} advantage.estimator=${estimator}`),
  ),
  "advantage.estimator=ppo credit.method=prime advantage.gamma=0.9 advantage.lambda=0.9",
  ...policyLossNames.map((loss) => `policy.loss=${loss} policy.aggregation=seq-mean-token-mean policy.miniBatch=9`),
  ...["token", "sequence"].flatMap((level) =>
    ["truncate", "mask"].map((bound) => `policy.importance={level: ${level},bound: ${bound}}`),
  ),
  ...["prime", "norm_itpo", "shared"].map((method) => `policy.klReward.coefficient=0.1 credit.method=${method}`),
  "policy.klReward={coefficient: 0.1,controller: adaptive,target: 0.001,horizon: 100}",
  "policy.maskTruncated=true rollout.maxTurnTokens=8",
  ...["after", "reverse", "none"].map((update) => `prm.update=${update}`),
  ...["dpo", "bon_acc", "bon_rm"].map((loss) => `prm.loss=${loss} prm.label=hard prm.miniBatch=3`),
  "prm.lambda=0.5 prm.norm=none",
  "prm.lambda=0.5 prm.useOutcome=true",
  "prm.granularity=whole",
  "prm.reference=true prm.normRanks=2",
  "rollout.dynamicSampling=true",
  "outcome.wordPenalty=0.001",
  "credit.form=sum",
  "policy.entropy=0.01",
  "policy.epochs=2",
  "outcome.tokenPenalty=0.001",
  "rollout.temperature=0.7",
]) {
  test(`${override}: a step runs, and every metric is finite`, async (t) => {
    const overrides = override.split(/ (?=[a-z]+\.[a-z])/i);
    const trainer = await trainerOf(t, { overrides, environment: parity, prmSeed: 2 });
    const { metrics } = await trainer.step(1);
    for (const [name, value] of Object.entries(metrics)) t.true(Number.isFinite(value), `${name} is ${value}`);
    t.true(metrics["policy/grad_norm"] > 0);
  });
}

test("a run can be repeated bit for bit, and another seed gives another", async (t) => {
  const runs = [];
  for (const seed of [3, 3, 4]) {
    const trainer = await trainerOf(t, { overrides: [`seed=${seed}`], environment: parity });
    const steps = await run(trainer, 3);
    runs.push({ metrics: steps.map(timeless), weights: await valuesOf(trainer.policy.model.parameters) });
  }
  t.deepEqual(runs[1], runs[0]);
  t.notDeepEqual(runs[2].metrics, runs[0].metrics);
});

test("memory after twelve steps is memory after four, to the byte", async (t) => {
  const trainer = await trainerOf(t, { overrides: ["steps=12"] });
  const { backend } = trainer.reference;
  await run(trainer, 4);
  const { bytes, buffers } = backend.memory();
  for (let step = 5; step <= 12; step++) await trainer.step(step);
  t.deepEqual([backend.memory().bytes, backend.memory().buffers], [bytes, buffers]);
});

test("learning rate 0 leaves the policy's every bit as it was", async (t) => {
  const trainer = await trainerOf(t, { overrides: ["policy.lr=0", "policy.weightDecay=0.1"], environment: parity });
  const before = await valuesOf(trainer.policy.model.parameters);
  const steps = await run(trainer, 3);
  t.true(steps.every(({ metrics }) => metrics["policy/grad_norm"] > 0));
  t.deepEqual(await valuesOf(trainer.policy.model.parameters), before);
});

test("in the lead steps the reward model alone learns", async (t) => {
  const trainer = await trainerOf(t, { overrides: ["prm.leadSteps=2"], environment: parity });
  const [policy, prm] = [trainer.policy.model, trainer.prm!.model];
  const before = await valuesOf(policy.parameters);
  await run(trainer, 2);
  t.deepEqual(await valuesOf(policy.parameters), before);
  t.notDeepEqual(await valuesOf(prm.parameters), before);
  await trainer.step(3);
  t.notDeepEqual(await valuesOf(policy.parameters), before);
});

test("without a reward model there is nothing to wait for", async (t) => {
  const overrides = ["prm.leadSteps=2", "credit.method=shared"];
  const trainer = await trainerOf(t, { overrides, environment: parity });
  const before = await valuesOf(trainer.policy.model.parameters);
  await trainer.step(1);
  t.notDeepEqual(await valuesOf(trainer.policy.model.parameters), before);
});

test("permuted outcomes: credit and reward model see others' outcomes, the report the true ones", async (t) => {
  const control = "control=permuted_outcomes";
  const [plain, permuted] = [
    await trainerOf(t, { environment: parity }),
    await trainerOf(t, { overrides: [control], environment: parity }),
  ];
  const [[a], [b]] = [await run(plain, 1), await run(permuted, 1)];
  t.deepEqual(b.trajectories, a.trajectories);
  t.is(b.metrics["outcome/mean"], a.metrics["outcome/mean"]);
  t.notDeepEqual(b.turnRewards, a.turnRewards);
  const sum = (step: TrainingStep) => step.turnRewards.flatMap((turns) => [...turns]).reduce((x, y) => x + y, 0);
  t.true(Math.abs(sum(a) - sum(b)) < 1e-9, "they are dealt, not made up");
});

/** All samples from the third on fail: at its beginning, at a reply, or when it is scored. */
function failing(kind: string): Environment {
  const fail = (where: string, sample: number) => {
    if (kind === where && sample >= 2) throw new Error("the judge is ill");
  };
  return scripted({
    begin: (_, sample) => fail("begin", sample),
    reply: (turn, _, sample) => {
      if (turn === 1) fail("reply", sample);
      return { kind: "message", content: "maybe red" };
    },
    score: (messages, task, sample) => {
      fail("score", sample);
      return { accuracy: (messages[1].content.length + task) % 2 };
    },
  });
}

for (const control of ["none", "permuted_outcomes"]) {
  for (const kind of ["begin", "reply", "score"]) {
    test(`conversations that fail at ${kind} leave their group and are counted (control ${control})`, async (t) => {
      const overrides = [`control=${control}`, "seed=5"];
      const trainer = await trainerOf(t, { overrides, environment: failing(kind) });
      for (const { metrics, trajectories, advantages, turnRewards } of await run(trainer, 2)) {
        t.is(metrics["rows/failed"], 3);
        t.is(metrics["rows/rows"], 9);
        for (const [name, value] of Object.entries(metrics)) t.true(Number.isFinite(value), `${name} is ${value}`);
        trajectories.forEach(({ sample, metrics }, i) => {
          if (sample !== 2) return;
          t.true(advantages[i].every((value) => value === 0));
          t.true(turnRewards[i].every((value) => value === 0));
          t.deepEqual(metrics, {});
        });
        const done = trajectories.filter(({ sample }) => sample !== 2);
        const mean = done.reduce((sum, { metrics }) => sum + metrics.accuracy, 0) / done.length;
        t.is(metrics["outcome/mean"], mean);
        t.is(metrics["outcome/accuracy"], mean);
        t.true(
          Math.abs(metrics["turns/reward_sum"] - mean) < 1e-9,
          "the mean credit is that of those that did not fail",
        );
      }
    });
  }
}

test("what failed conversations score does not scale the others", async (t) => {
  const small = ["rollout.prompts=1", "rollout.samples=12", "prm.miniBatch=2"];
  const overrides = ["credit.method=itpo", ...small];
  const scoresOf = async (environment: Environment) => {
    const trainer = await trainerOf(t, { overrides, environment, prmSeed: 2 });
    return (await trainer.step(1)).turnRewards.slice(0, 2);
  };
  // Ten of twelve fail either at once, with no token drawn, or at the end, with all of them.
  const [early, late] = [await scoresOf(failing("begin")), await scoresOf(failing("score"))];
  late.forEach((turns, i) => {
    turns.forEach((value, k) => {
      t.true(Math.abs(value - early[i][k]) < 1e-5);
    });
  });
});

test("when every conversation fails nothing is learnt and nothing breaks", async (t) => {
  const environment = scripted({
    score: () => {
      throw new Error("the judge is ill");
    },
  });
  const trainer = await trainerOf(t, { environment });
  const before = await valuesOf(trainer.policy.model.parameters);
  const { metrics } = await trainer.step(1);
  t.is(metrics["rows/failed"], 9);
  t.deepEqual(await valuesOf(trainer.policy.model.parameters), before);
});

test("equal outcomes in every group give no policy gradient", async (t) => {
  const environment = scripted({ score: () => ({ accuracy: 1 }) });
  for (const method of ["uniform", "shared"]) {
    const overrides = [`credit.method=${method}`, "policy.kl=0"];
    const { metrics } = await (await trainerOf(t, { overrides, environment })).step(1);
    t.is(metrics["rows/flat_groups"], 3);
    t.is(metrics["policy/grad_norm"], 0);
  }
});

test("a task that is drawn twice in a step has other samples the second time", async (t) => {
  const environment = { ...parity, size: 2 };
  const trainer = await trainerOf(t, { overrides: ["rollout.prompts=8"], environment });
  for (const step of [1, 2, 3]) {
    const items = trainer.items(step);
    t.is(items.length, 24);
    t.is(new Set(items.map(({ task, sample }) => `${task} ${sample}`)).size, 24);
    t.true(items.every(({ task }) => task < 2));
  }
  t.notDeepEqual(trainer.items(1), trainer.items(2));
  t.deepEqual(trainer.items(2), trainer.items(2));
});

test("an outcome metric that the environment lacks is named, with those it has", async (t) => {
  const trainer = await trainerOf(t, { overrides: ["outcome.metrics={diagnosis: 1}"], environment: parity });
  await t.throwsAsync(trainer.step(1), { message: /outcome.metrics names 'diagnosis'; the environment has accuracy/ });
});

test("a judge that did not score a turn, or scored it below 0, has failed", async (t) => {
  const opinions: Record<string, number>[] = [{}, { "judge/1": -1, "judge/2": 1, "judge/3": 1 }, { "judge/1": 0 }];
  for (const said of opinions) {
    const environment = scripted({ score: () => ({ accuracy: 1, ...said }) });
    const trainer = await trainerOf(t, { overrides: ["credit.method=judge"], environment });
    t.is((await trainer.step(1)).metrics["rows/failed"], 9);
  }
});

test("dynamic sampling drops groups whose rewards are equal, and fills the batch from later rounds", async (t) => {
  // Every second task is lost whatever is said.
  const environment = scripted({ score: (_, task, sample) => ({ accuracy: task % 2 === 0 ? sample % 2 : 0 }) });
  const overrides = ["rollout.dynamicSampling=true", "rollout.maxRounds=8", "credit.method=shared"];
  const trainer = await trainerOf(t, { overrides, environment });
  const { trajectories, metrics } = await trainer.step(1);
  t.is(trajectories.length, 9);
  t.true(trajectories.every(({ task }) => task % 2 === 0));
  t.true(metrics["rollout/rounds"] > 1);
  t.true(metrics["rollout/dropped_groups"] > 0);
  t.is(metrics["rows/flat_groups"], 0);
  t.true(metrics["outcome/mean"] < 1 / 3, "the report counts what was dropped too");
});

test("where the rounds run out, dropped groups fill the batch", async (t) => {
  const environment = scripted({ score: () => ({ accuracy: 1 }) });
  const overrides = ["rollout.dynamicSampling=true", "rollout.maxRounds=2", "credit.method=shared"];
  const { trajectories, metrics } = await (await trainerOf(t, { overrides, environment })).step(1);
  t.deepEqual([trajectories.length, metrics["rollout/rounds"], metrics["rollout/dropped_groups"]], [9, 2, 6]);
});

test("an adaptive controller moves the coefficient of the KL in the reward; a fixed one does not", async (t) => {
  const of = async (controller: string) => {
    const klReward = `policy.klReward={coefficient: 0.1,controller: ${controller},target: 0.5,horizon: 100}`;
    const trainer = await trainerOf(t, { overrides: [klReward], environment: parity });
    await run(trainer, 2);
    return trainer.klCoefficient;
  };
  t.is(await of("fixed"), 0.1);
  t.true(Math.abs((await of("adaptive")) - 0.1 * (1 - (0.2 * 9) / 100) ** 2) < 1e-9);
});

test("scores before the update are those of the model as it was; without an update it stays as it is", async (t) => {
  const rewardsOf = async (update: string) => {
    const overrides = [`prm.update=${update}`, "credit.method=itpo"];
    const trainer = await trainerOf(t, { overrides, environment: parity, prmSeed: 2 });
    const before = await valuesOf(trainer.prm!.model.parameters);
    const { turnRewards } = await trainer.step(1);
    const isSame = JSON.stringify(await valuesOf(trainer.prm!.model.parameters)) === JSON.stringify(before);
    return { turnRewards, isSame };
  };
  const [before, after, reverse, none] = [
    await rewardsOf("before"),
    await rewardsOf("after"),
    await rewardsOf("reverse"),
    await rewardsOf("none"),
  ];
  t.deepEqual(
    [before, after, reverse, none].map(({ isSame }) => isSame),
    [false, false, false, true],
  );
  t.deepEqual(reverse.turnRewards, none.turnRewards);
  t.notDeepEqual(before.turnRewards, none.turnRewards);
  t.notDeepEqual(after.turnRewards, before.turnRewards);
});

test("the critic learns the outcome: its loss falls, and in its lead steps the policy stays", async (t) => {
  const overrides = [
    "advantage.estimator=ppo",
    "credit.method=shared",
    "critic.lr=0.01",
    "critic.leadSteps=6",
    "critic.miniBatch=9",
  ];
  const environment = scripted({ score: () => ({ accuracy: 1 }) });
  const trainer = await trainerOf(t, { overrides, environment });
  const before = await valuesOf(trainer.policy.model.parameters);
  const steps = await run(trainer, 6);
  t.true(steps[5].metrics["critic/vf_loss"] < 0.5 * steps[0].metrics["critic/vf_loss"]);
  t.deepEqual(await valuesOf(trainer.policy.model.parameters), before);
});

test("a batch in which every turn was cut off teaches the policy nothing, if those are masked", async (t) => {
  const overrides = ["policy.maskTruncated=true", "rollout.maxTurnTokens=1", "seed=2"];
  const trainer = await trainerOf(t, { overrides, environment: parity });
  const before = await valuesOf(trainer.policy.model.parameters);
  const { metrics, trajectories } = await trainer.step(1);
  const turns = trajectories.flatMap((trajectory) => trajectory.turns);
  t.is(metrics["policy/masked_turns"], turns.filter(({ stop }) => stop === "turn_length").length);
  t.is(metrics["policy/masked_turns"], turns.length);
  t.deepEqual(await valuesOf(trainer.policy.model.parameters), before);
});
