import { spawn } from "node:child_process";
import { cp, readdir, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import test, { type ExecutionContext } from "ava";
import { createCpu, InputError } from "../../lib/index.js";
import { openCheckpoint, openOptimizers, saveCheckpoint } from "../../rl/checkpoint.js";
import { readMetrics } from "../../rl/report/metrics.js";
import { type RunResult, train } from "../../rl/run.js";
import { Trainer } from "../../rl/trainer.js";
import { valuesOf } from "../models/tiny.js";
import { temporaryFolder } from "../temporary.js";
import { cli, scripted, talker, tinyRecipeFile, tinyTraining } from "./support.js";

const quiet = { print: () => {}, stream: { write: () => {} } };

/** Runs the tiny recipe into a fresh folder; asks it to stop once its live line shows a step of its four. */
async function runTiny(t: ExecutionContext, overrides: readonly string[], stopAfter?: number): Promise<RunResult> {
  const controller = new AbortController();
  const write = (line: string) => {
    if (line.includes(`step ${stopAfter}/4`)) controller.abort();
  };
  const config = await tinyTraining(t, `output=${temporaryFolder(t)}`, ...overrides);
  return train(config, { ...quiet, signal: controller.signal, stream: { isTTY: true, write } });
}

/** The metrics of a run that do not measure time. */
function timeless(folder: string) {
  const isTime = (name: string) => /^time|tokens_per_s$|_ms$/.test(name);
  return readMetrics(folder).map((row) =>
    Object.entries(row)
      .filter(([name]) => !isTime(name))
      .sort(),
  );
}

async function filesOf(folder: string): Promise<Map<string, Buffer>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
  const contents = paths.map(async (path) => [path.slice(folder.length + 1), await readFile(path)] as const);
  return new Map((await Promise.all(contents)).sort(([a], [b]) => (a < b ? -1 : 1)));
}

const objectives: Readonly<Record<string, readonly string[]>> = {
  norm_itpo: ["credit.method=norm_itpo"],
  shared: ["credit.method=shared"],
  "ppo, with an adaptive KL in the reward": [
    ...["credit.method=shared", "advantage.estimator=ppo", "critic={lr: 0.001, miniBatch: 9}"],
    "policy.klReward={coefficient: 0.1, controller: adaptive, target: 0.01, horizon: 100}",
  ],
};

for (const [method, objective] of Object.entries(objectives)) {
  test(`${method}: a run that stopped after two steps and was resumed is one that never stopped, bit for bit`, async (t) => {
    const overrides = [
      ...[...objective, "warmup={steps: 30, batchSize: 8, lr: 0.01}", "policy.schedule=cosine"],
      // A price per token gives conversations that are all lost something to learn from.
      ...["outcome.tokenPenalty=0.02", "rollout.maxTurnTokens=8"],
    ];
    const whole = await runTiny(t, overrides);
    const stopped = await runTiny(t, overrides, 2);
    t.deepEqual(
      readMetrics(stopped.folder).map(({ step }) => step),
      [0, 1, 2],
    );
    const config = await tinyTraining(t, ...overrides);
    const resumed = await train(config, { ...quiet, resume: stopped.folder });

    t.deepEqual([resumed.before, resumed.after], [whole.before, whole.after]);
    t.deepEqual(timeless(resumed.folder), timeless(whole.folder));
    const [a, b] = await Promise.all([whole, resumed].map(({ folder }) => filesOf(join(folder, "checkpoint"))));
    t.deepEqual([...b.keys()], [...a.keys()]);
    t.is(a.has("prm/model.safetensors"), method === "norm_itpo");
    t.is(a.has("critic.value_head.safetensors"), method.startsWith("ppo"));
    t.false(a.get("policy/model.safetensors")!.equals(a.get("reference/model.safetensors")!));
    for (const [name, bytes] of a) if (name !== "state.json") t.true(bytes.equals(b.get(name)!), name);
    const transcripts = (folder: string) => readFile(join(folder, "transcripts.jsonl"), "utf8");
    t.is(await transcripts(resumed.folder), await transcripts(whole.folder));
  });
}

test("a run whose steps are done is resumed only with more of them", async (t) => {
  const { folder } = await runTiny(t, ["steps=2"]);
  const before = await filesOf(folder);
  await t.throwsAsync(train(await tinyTraining(t, "steps=2"), { ...quiet, resume: folder }), {
    instanceOf: InputError,
    message: /all its 2 steps are done; give steps=N/,
  });
  t.deepEqual(await filesOf(folder), before);
  await train(await tinyTraining(t, "steps=3"), { ...quiet, resume: folder });
  t.deepEqual(
    readMetrics(folder).map(({ step }) => step),
    [0, 1, 2, 3],
  );
});

/** A trainer after one step, and its checkpoint. */
async function checkpointed(t: ExecutionContext) {
  const backend = createCpu({ poison: true });
  const { policy, chat, tokenizer } = talker({ backend });
  const config = await tinyTraining(t);
  const trainer = new Trainer(config, { policy, chat, environment: scripted() });
  await trainer.step(1);
  const directory = join(temporaryFolder(t), "checkpoint");
  await saveCheckpoint(directory, trainer, tokenizer, { step: 1, config, before: 0.25 });
  return { trainer, directory, tokenizer, config };
}

test("what is saved is what is found: models, frozen reference, optimizers, state", async (t) => {
  const { trainer, directory, config } = await checkpointed(t);
  const backend = createCpu({ poison: true });
  const found = await openCheckpoint(directory, backend);
  t.deepEqual(found.state, { step: 1, before: 0.25, config: JSON.parse(JSON.stringify(config)) });
  t.is(found.folder, directory);
  for (const [model, saved] of [
    [found.policy, trainer.policy.model],
    [found.prm!, trainer.prm!.model],
    [found.reference, trainer.reference],
  ]) {
    t.deepEqual(await valuesOf(model.parameters), await valuesOf(saved.parameters));
  }
  t.false([...found.reference.parameters.values()].some(({ requiresGrad }) => requiresGrad));
  const again = new Trainer(config, { ...trainer.parts, ...found });
  await openOptimizers(found, again);
  for (const [one, other] of [
    [again.policy, trainer.policy],
    [again.prm!, trainer.prm!],
  ]) {
    const [state, saved] = [one.optimizer.state(), other.optimizer.state()];
    t.is(state.step, saved.step);
    t.deepEqual(await valuesOf(state.tensors), await valuesOf(saved.tensors));
  }
});

test("saving again replaces the checkpoint and leaves nothing beside it", async (t) => {
  const { trainer, directory, tokenizer, config } = await checkpointed(t);
  await trainer.step(2);
  await saveCheckpoint(directory, trainer, tokenizer, { step: 2, config });
  t.deepEqual(await readdir(join(directory, "..")), ["checkpoint"]);
  t.is((await openCheckpoint(directory, createCpu())).state.step, 2);
});

test("a save that was killed leaves a checkpoint that is found", async (t) => {
  const { trainer, directory, tokenizer, config } = await checkpointed(t);
  const [fresh, old] = [`${directory}.new`, `${directory}.old`];
  const found = async () => (await openCheckpoint(directory, createCpu())).folder;

  await cp(directory, fresh, { recursive: true });
  await rm(join(fresh, "state.json"));
  t.is(await found(), directory, "while the new one is written");
  await rename(directory, old);
  t.is(await found(), old, "the new one is not complete");
  await rm(fresh, { recursive: true });
  t.is(await found(), old, "only the old one is there");
  await rename(old, fresh);
  t.is(await found(), fresh, "the old one is gone already");

  await saveCheckpoint(directory, trainer, tokenizer, { step: 5, config });
  t.is(await found(), directory);
  t.deepEqual(await readdir(join(directory, "..")), ["checkpoint"]);
});

test("a run goes on from the old checkpoint where a save was killed between its renames", async (t) => {
  const { folder } = await runTiny(t, [], 1);
  const checkpoint = join(folder, "checkpoint");
  await rename(checkpoint, `${checkpoint}.old`);
  await train(await tinyTraining(t, "steps=2"), { ...quiet, resume: folder });
  t.deepEqual(
    (await readdir(folder)).filter((name) => name.startsWith("checkpoint")),
    ["checkpoint"],
  );
  t.is((await openCheckpoint(checkpoint, createCpu())).state.step, 2);
});

/** What may be wrong with a checkpoint, and what the error must say. */
const damages: Record<string, readonly [damage: (directory: string) => Promise<unknown>, message: RegExp]> = {
  nothing: [(directory) => rm(directory, { recursive: true }), /no checkpoint there/],
  "a state that is cut short": [(directory) => truncate(join(directory, "state.json"), 9), /state\.json: damaged/],
  "a state of something else": [
    (directory) => writeFile(join(directory, "state.json"), '{"step": "two"}'),
    /state\.json: damaged/,
  ],
  "no policy": [(directory) => rm(join(directory, "policy"), { recursive: true }), /policy: no such folder/],
  "no reference": [(directory) => rm(join(directory, "reference"), { recursive: true }), /reference: no such folder/],
  "weights that are cut short": [
    (directory) => truncate(join(directory, "prm", "model.safetensors"), 2000),
    /prm.model\.safetensors: .*download or copy it again/,
  ],
  "no optimizer": [
    (directory) => rm(join(directory, "policy.optimizer.safetensors")),
    /policy\.optimizer\.safetensors: no such file/,
  ],
  "an optimizer that is cut short": [
    (directory) => truncate(join(directory, "prm.optimizer.safetensors"), 3000),
    /prm\.optimizer\.safetensors: /,
  ],
  "weights in the optimizer's place": [
    (directory) => cp(join(directory, "policy", "model.safetensors"), join(directory, "policy.optimizer.safetensors")),
    /policy\.optimizer\.safetensors: it does not say its step/,
  ],
};

for (const [what, [damage, message]] of Object.entries(damages)) {
  test(`a checkpoint with ${what} is refused in one line`, async (t) => {
    const { directory, trainer } = await checkpointed(t);
    await damage(directory);
    const open = async () => openOptimizers(await openCheckpoint(directory, trainer.reference.backend), trainer);
    const error = await t.throwsAsync(open(), { instanceOf: InputError, message });
    t.notRegex(error!.message, /\n/);
  });
}

test("a process that is killed at any time leaves a checkpoint that loads, or none", async (t) => {
  const output = temporaryFolder(t);
  const overrides = [`output=${output}`, "steps=100000", "checkpoint.every=1", "evaluate.every=0", "evaluate.probe=0"];
  const kills = [0, 1, 5, 13].map(async (delay, i) => {
    const folder = join(output, `run${i}`);
    const args = [cli, "train", tinyRecipeFile(t), ...overrides, `name=run${i}`];
    const child = spawn(process.execPath, args, { stdio: "ignore" });
    const ended = new Promise((resolve) => child.on("close", (_, signal) => resolve(signal)));
    // The first is killed before it can have saved anything.
    while (readMetrics(folder).length < (i === 0 ? 1 : 3) && child.exitCode === null) await sleep(20);
    await sleep(delay);
    child.kill("SIGKILL");
    t.is(await ended, "SIGKILL");
    const found = await openCheckpoint(join(folder, "checkpoint"), createCpu()).catch((error: Error) => error);
    if (found instanceof Error) {
      t.regex(found.message, /no checkpoint there/);
      t.is(i, 0);
      return;
    }
    for (const values of await valuesOf(found.policy.parameters)) t.true(values.every(Number.isFinite));
    const next = found.state.step + 1;
    await train(await tinyTraining(t, `steps=${next}`, "evaluate.probe=0"), { ...quiet, resume: folder });
    t.is(readMetrics(folder).at(-1)!.step, next);
  });
  await Promise.all(kills);
});
