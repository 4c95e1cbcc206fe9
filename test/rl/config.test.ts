import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { stringify } from "yaml";
import { InputError } from "../../lib/index.js";
import { loadSftConfig, loadTrainConfig } from "../../rl/config.js";
import { recipeNames } from "../../rl/recipe.js";
import { temporaryFolder } from "../temporary.js";
import { tinyRecipeFile, tinyTraining } from "./support.js";

const recipes = await recipeNames();

for (const recipe of recipes) {
  test(`recipe ${recipe} loads by its name, and the resolved config loads again as it is`, async (t) => {
    const load = recipe.endsWith("-sft") ? loadSftConfig : loadTrainConfig;
    const config = await load(recipe);
    t.is(config.name, recipe);
    const path = join(temporaryFolder(t), "config.yaml");
    writeFileSync(path, stringify(config));
    t.deepEqual(await load(path), config);
  });
}

test("what a file does not say has a default", async (t) => {
  const { policy, credit, seed, advantage, control } = await tinyTraining(t);
  t.deepEqual([seed, control, credit.method, advantage.estimator], [0, "none", "norm_itpo", "rloo"]);
  t.like(policy, { clipLow: 0.2, clipHigh: 0.2, dualClip: 3, gradClip: 1, aggregation: "token-mean", lr: 1e-3 });
});

test("overrides set values of any kind, at any depth, in their order", async (t) => {
  const config = await tinyTraining(
    t,
    ...["seed=7", "seed=8", "name=other"],
    ...["policy.betas=[0.8, 0.9]", "policy.betas.1=0.5", "policy.lr=1e-5"],
    ...["outcome.metrics={accuracy: 0.5, format: 0.25}", "outcome.metrics.format=0.75"],
    ...["model.scratch.kvHeads=1", "model.scratch.tokenizer=a=b", "warmup.steps=3"],
  );
  t.is(config.seed, 8);
  t.is(config.name, "other");
  t.like(config.policy, { betas: [0.8, 0.5], lr: 1e-5 });
  t.deepEqual(config.outcome.metrics, { accuracy: 0.5, format: 0.75 });
  t.like(config.model, { scratch: { kvHeads: 1, tokenizer: "a=b" } });
  t.like(config.warmup, { steps: 3, batchSize: 32 });
});

test("model.path takes the place of a model from scratch, and the other way round; both at once are refused", async (t) => {
  const { model } = await loadTrainConfig("quickstart", ["model.path=somewhere"]);
  t.deepEqual(model, { path: "somewhere" });
  const path = join(temporaryFolder(t), "config.yaml");
  writeFileSync(path, stringify(await loadTrainConfig("quickstart", ["model.path=somewhere"])));
  t.like((await loadTrainConfig(path, ["model.scratch.layers=3"])).model, { scratch: { layers: 3 } });
  await t.throwsAsync(loadTrainConfig("quickstart", ["model.path=somewhere", "model.scratch.layers=3"]), {
    instanceOf: InputError,
    message: /model\.(scratch|path) does not exist/,
  });
});

test("the warm-up can be switched off, and the resolved config says so", async (t) => {
  const config = await loadTrainConfig("quickstart", ["warmup=null"]);
  t.is(config.warmup, null);
  const path = join(temporaryFolder(t), "config.yaml");
  writeFileSync(path, stringify(config));
  t.deepEqual(await loadTrainConfig(path), config);
});

/** What may be wrong, and what the error must say. */
const mistakes: Record<string, readonly [override: string, message: RegExp]> = {
  "an unknown key": ["stepz=3", /stepz does not exist; remove it or correct its name/],
  "an unknown key inside": ["policy.learningRate=1", /policy\.learningRate does not exist/],
  "an unknown key deep inside": ["model.scratch.depth=2", /model\.scratch\.depth does not exist/],
  "an unknown key of the environment": ["environment.train=x.parquet", /environment\.train does not exist/],
  "another environment": ["environment.name=chess", /environment\.name/],
  "another method": ["credit.method=magic", /credit\.method: .*norm_itpo/],
  __proto__: ["__proto__.polluted=1", /__proto__ does not exist/],
  "__proto__ inside": ["policy.__proto__.polluted=1", /policy\.__proto__ does not exist/],
  "the constructor": ["constructor.prototype.polluted=1", /constructor does not exist/],
  "a word for a number": ["steps=ten", /steps: .*expected number/],
  "a key under a number": ["steps.more=1", /steps: .*expected number/],
  "nothing for a number": ["steps=", /steps: .*expected number/],
  "no steps": ["steps=0", /steps: .*>0/],
  "half a step": ["steps=1.5", /steps: .*int/],
  "temperature 0": ["rollout.temperature=0", /rollout\.temperature: .*>0/],
  "a negative learning rate": ["policy.lr=-1", /policy\.lr: .*>=0/],
  "a learning rate that is no number": ["policy.lr=.nan", /policy\.lr/],
  "an infinite learning rate": ["policy.lr=.inf", /policy\.lr/],
  "a decay of 1": ["policy.betas=[0.9, 1]", /policy\.betas\.1: .*<1/],
  "one decay": ["policy.betas=[0.9]", /policy\.betas/],
  "a clip above 1": ["policy.clipLow=2", /policy\.clipLow: .*<=1/],
  "a dual clip of 1": ["policy.dualClip=1", /policy\.dualClip: .*>1/],
  "a name that leaves the folder": ["name=../evil", /name: letters, digits, dots and dashes only/],
  "a name of dots": ["name=..", /name: /],
  "a group of one": ["rollout.samples=1", /rollout\.samples is 1; a group-relative advantage needs at least 2/],
  "a mini-batch larger than a step": ["prm.miniBatch=10", /prm\.miniBatch is 10, but a step has 9 conversations/],
  "a policy mini-batch larger than a step": ["policy.miniBatch=10", /policy\.miniBatch is 10, but a step has 9/],
  "no outcome": ["outcome.metrics=", /outcome\.metrics/],
  "outcomes without weight": [
    "outcome.metrics={accuracy: 0}",
    /outcome\.metrics: the weights must add up to more than 0/,
  ],
  "no override at all": ["steps", /'steps' is no override; write key\.path=value/],
  "an override without a key": ["=3", /'=3' is no override/],
  "a value that is no YAML": ["steps=[1", /steps=\[1: /],
};

for (const [what, [override, message]] of Object.entries(mistakes)) {
  test(`${what} (${override}): refused in one line`, async (t) => {
    const error = await t.throwsAsync(tinyTraining(t, override), { instanceOf: InputError, message });
    t.notRegex(error!.message, /\n/);
    t.false("polluted" in {});
  });
}

test("what does not go together is refused", async (t) => {
  const refuse = (message: RegExp, ...overrides: string[]) =>
    t.throwsAsync(tinyTraining(t, ...overrides), { instanceOf: InputError, message });
  await refuse(/credit\.uniformMix goes with credit\.method norm_itpo/, "credit.method=itpo", "credit.uniformMix=0.1");
  await refuse(/advantage\.form share needs credit that sums/, "advantage.form=share", "credit.method=itpo");
  await refuse(/advantage\.form share needs credit that sums/, "advantage.form=share", "credit.method=value");
  await refuse(/advantage_share needs credit by weights/, "advantage.form=advantage_share", "credit.method=prime");
  await refuse(/opo knows whole conversations only; set credit\.method=shared/, "advantage.estimator=opo");
  await refuse(/advantage\.gamma goes with/, "advantage.gamma=0.9");
  await refuse(/advantage\.lambda goes with/, "advantage.lambda=0.9", "advantage.estimator=reinforce_plus_plus");
  await refuse(/prm\.loss dpo compares right with wrong; set prm\.label=hard/, "prm.loss=dpo", "prm.miniBatch=3");
  await refuse(/set prm\.miniBatch to a multiple of rollout\.samples, 3/, "prm.loss=dpo", "prm.label=hard");
  await refuse(/set policy\.aggregation=seq-mean-token-mean/, "policy.loss=gspo");
  await refuse(/gpg is on policy only; set policy\.epochs=1 and policy\.miniBatch=9/, "policy.loss=gpg");
  await refuse(/importance\.low is above/, "policy.importance={level: token, low: 3}");
  await refuse(/critic\.miniBatch is 32, but a step has 9/, "advantage.estimator=ppo", "critic.miniBatch=32");
  await refuse(/warmup needs an environment with scripts/, "warmup.steps=1", "environment={name: medical, train: x}");
});

test("estimators without a group baseline take a single conversation a prompt", async (t) => {
  const single = ["rollout.samples=1", "policy.miniBatch=3", "prm.miniBatch=3", "critic.miniBatch=3"];
  for (const estimator of ["ppo", "reinforce_plus_plus", "remax"]) {
    t.is((await tinyTraining(t, ...single, `advantage.estimator=${estimator}`)).rollout.samples, 1);
  }
});

test("errors name the file or the recipe", async (t) => {
  const path = tinyRecipeFile(t);
  const message = (...args: Parameters<typeof loadTrainConfig>) =>
    loadTrainConfig(...args).then(
      () => "no error",
      (error: Error) => error.message,
    );
  t.true((await message(path, ["steps=0"])).startsWith(`${path}: `));
  t.regex(await message("quickstart", ["steps=0"]), /^quickstart: /);
  t.regex(await message("nowhere"), /^recipe 'nowhere': .*recipes are .*quickstart/);
  t.regex(await message(`${path}.yaml`), /cannot be read/);
});

test("a file that is no YAML, or no mapping, is refused in one line", async (t) => {
  const path = join(temporaryFolder(t), "bad.yaml");
  for (const text of [
    "name: [1, 2",
    "name: a\nname: b\n",
    "a: b: c",
    "\t- x",
    "",
    "just a word",
    "- a list",
    "null",
    "3",
  ]) {
    writeFileSync(path, text);
    const error = await t.throwsAsync(loadTrainConfig(path), { instanceOf: InputError }, text);
    t.true(error!.message.startsWith(`${path}: `), error!.message);
    t.notRegex(error!.message, /\n/);
  }
});

test("a file cannot reach the prototype either", async (t) => {
  const path = join(temporaryFolder(t), "proto.yaml");
  writeFileSync(path, `${readFileSync(tinyRecipeFile(t), "utf8")}\n__proto__: { polluted: 1 }\n`);
  await t.throwsAsync(loadTrainConfig(path), { instanceOf: InputError, message: /__proto__ does not exist/ });
  t.false("polluted" in {});
});

test("a share to hold out leaves something on both sides", async (t) => {
  for (const share of [0, 1, 1.5, -0.1]) {
    const message = /heldOutShare: Too (small|big)/;
    await t.throwsAsync(loadSftConfig("medical-sft", [`data.heldOutShare=${share}`]), {
      instanceOf: InputError,
      message,
    });
    const medical = loadTrainConfig("medical", [`environment.heldOutShare=${share}`]);
    await t.throwsAsync(medical, { instanceOf: InputError, message });
  }
});

test("a recipe of the other command says which", async (t) => {
  const sft = loadTrainConfig("medical-sft");
  await t.throwsAsync(sft, {
    instanceOf: InputError,
    message: "medical-sft: is a configuration for itpo sft; run that",
  });
  const train = loadSftConfig("medical");
  await t.throwsAsync(train, {
    instanceOf: InputError,
    message: "medical: is a configuration for itpo train; run that",
  });
});
