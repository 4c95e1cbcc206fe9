import { spawn } from "node:child_process";
import { readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tableFromArrays, tableToIPC } from "apache-arrow";
import test, { type ExecutionContext } from "ava";
import { Table, writeParquet } from "parquet-wasm";
import { parse } from "yaml";
import { createCpu } from "../../lib/index.js";
import { generate, loadQwen, saveQwen, score } from "../../models/index.js";
import { openCheckpoint } from "../../rl/checkpoint.js";
import { loadTrainConfig } from "../../rl/config.js";
import { maxDifference } from "../models/fixtures.js";
import { tinyModel } from "../models/tiny.js";
import { fixture } from "../support.js";
import { temporaryFolder } from "../temporary.js";
import { cli, tinyRecipeFile } from "./support.js";

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in a folder until it ends. `onOutput` sees what it has written so far. */
function itpo(folder: string, args: readonly string[], onOutput?: (child: { kill(): void }, text: string) => void) {
  return new Promise<Outcome>((resolve) => {
    const child = spawn(process.execPath, [cli, ...args], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
    const out = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text) => {
        out[name] += text;
        onOutput?.({ kill: () => child.kill("SIGTERM") }, out.stdout + out.stderr);
      });
    }
    child.on("close", (code) => resolve({ code, ...out }));
  });
}

/** A folder with a tiny model that `score` can read. */
async function modelFolder(t: ExecutionContext): Promise<string> {
  const folder = join(temporaryFolder(t), "model");
  await saveQwen(tinyModel(), folder);
  return folder;
}

test("score writes the log-probs and entropies of each sequence", async (t) => {
  const model = fixture("tiny-qwen2");
  const folder = temporaryFolder(t);
  const sequences = [[5, 9, 14, 3, 8], [7], [300, 2, 2, 2]];
  writeFileSync(join(folder, "in.json"), JSON.stringify({ sequences }));
  const args = ["--model", model, "--input", "in.json", "--output", "out.json"];
  const { code, stdout, stderr } = await itpo(folder, ["score", ...args, "--device", "cpu"]);
  t.deepEqual([code, stdout, stderr], [0, "", ""]);
  const written = JSON.parse(readFileSync(join(folder, "out.json"), "utf8"));
  t.deepEqual(Object.keys(written), ["logprobs", "entropy"]);
  const expected = await score(await loadQwen(model, { backend: createCpu() }), sequences);
  sequences.forEach((ids, i) => {
    t.is(written.logprobs[i].length, ids.length - 1);
    t.is(written.entropy[i].length, ids.length);
    t.true(maxDifference(written.logprobs[i], expected.logprobs[i]) < 1e-5);
    t.true(maxDifference(written.entropy[i], expected.entropy[i]) < 1e-5);
  });
  t.deepEqual(readdirSync(folder).sort(), ["in.json", "out.json"]);
});

test("doctor says what there is, and ends well", async (t) => {
  const { code, stdout, stderr } = await itpo(temporaryFolder(t), ["doctor"]);
  t.deepEqual([code, stderr], [0, ""]);
  for (const line of [
    /^node +v\d+/m,
    /^processor /m,
    /^BLAS /m,
    /^tfjs:wasm +available/m,
    /^auto takes +(cpu|tfjs)/m,
  ]) {
    t.regex(stdout, line);
  }
});

/** The quickstart on a tiny model that learns the format, hardly more. */
const tiny = [
  ...["layers=1", "hiddenSize=16", "heads=2", "intermediateSize=24"].map((value) => `model.scratch.${value}`),
  ...["steps=100", "batchSize=16", "lr=0.01"].map((value) => `warmup.${value}`),
  ...["steps=2", "rollout.prompts=2", "rollout.samples=4"],
  ...["prm.miniBatch=4", "prm.leadSteps=0", "policy.miniBatch=4"],
  ...["evaluate.conversations=8", "evaluate.probe=100", "evaluate.every=1"],
];

test("train: a run's folder holds config, metrics, page with rewards, and a model that loads; the next has its own", async (t) => {
  const folder = temporaryFolder(t);
  const { code, stdout, stderr } = await itpo(folder, ["train", "quickstart", ...tiny, "seed=3", "device=cpu"]);
  t.is(code, 0, stderr);
  const run = join(folder, "runs", "quickstart");
  t.regex(stdout.split("\n")[0], /^quickstart on cpu \(.+\), seed 3, into runs.quickstart$/);
  t.regex(stdout, /answers at once 0\.250, best fixed script 0\.375, oracle 1\.000/);
  t.regex(stdout, /held-out outcome \d\.\d{3} → \d\.\d{3} after 2 steps/);
  t.regex(stderr, /step 2\/2 .*outcome \d\.\d+ .*tok\/s/);

  const config = await loadTrainConfig(join(run, "config.yaml"));
  t.like(config, { name: "quickstart", seed: 3, steps: 2, credit: { method: "norm_itpo" } });

  const rows = readFileSync(join(run, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.deepEqual(
    rows.map(({ step }) => step),
    [0, 1, 2],
  );
  for (const row of rows.slice(1)) {
    for (const name of [
      "outcome/mean",
      "held_out/outcome",
      "prm/loss",
      "policy/kl",
      "turn_reward/1",
      "rollout/tokens_per_s",
    ]) {
      t.is(typeof row[name], "number", name);
    }
    for (const [name, value] of Object.entries(row)) t.not(value, null, name);
  }
  t.is(typeof rows[2]["credit/norm_itpo"], "number");

  const page = readFileSync(join(run, "index.html"), "utf8");
  const [, json] = /<script type="application\/json" id="transcripts">(.*?)<\/script>/s.exec(page)!;
  const { transcripts } = JSON.parse(json);
  const turns = transcripts.flatMap(({ messages }: { messages: { speaker: string; reward?: number }[] }) =>
    messages.filter(({ speaker }) => /assistant|policy/i.test(speaker)),
  );
  t.true(turns.length > 0);
  t.true(turns.every(({ reward }: { reward?: number }) => typeof reward === "number"));

  const { state, policy } = await openCheckpoint(join(run, "checkpoint"), createCpu());
  t.is(state.step, 2);
  const [completion] = await generate(policy, [[5, 6]], { maxTokens: 3, stopIds: [] });
  t.is(completion.ids.length, 3);

  const model = join("runs", "quickstart", "checkpoint", "policy");
  const talk = ["generate", "--model", model, "--message", "help with paint", "--max-tokens", "6"];
  const [one, two, greedy, prompt] = await Promise.all([
    itpo(folder, [...talk, "--seed", "5"]),
    itpo(folder, [...talk, "--seed", "5"]),
    itpo(folder, [...talk, "--temperature", "0"]),
    itpo(folder, ["generate", "--model", model, "--prompt", "must red so", "--max-tokens", "4"]),
  ]);
  for (const { code, stderr, stdout } of [one, two, greedy, prompt]) {
    t.deepEqual([code, stderr], [0, ""]);
    t.regex(stdout, /^[a-z? ]*\n$/);
  }
  t.is(one.stdout, two.stdout);

  const [again, more] = await Promise.all([
    itpo(folder, ["train", "quickstart", ...tiny, "steps=1"]),
    itpo(folder, ["train", "--resume", "runs/quickstart", "steps=3"]),
  ]);
  t.deepEqual([again.code, more.code], [0, 0], again.stderr + more.stderr);
  t.deepEqual(readdirSync(join(folder, "runs")).sort(), ["quickstart", "quickstart-2"]);
  t.is((await openCheckpoint(join(run, "checkpoint"), createCpu())).state.step, 3);
});

test("train stops at a request to end: it saves, says how to go on, and ends well", async (t) => {
  const folder = temporaryFolder(t);
  let asked = false;
  const { code, stdout } = await itpo(folder, ["train", tinyRecipeFile(t), "steps=100000"], (child, text) => {
    if (asked || !/step .* outcome/.test(text)) return;
    asked = true;
    child.kill();
  });
  t.is(code, 0);
  const [, step] = /stopped after step (\d+); go on with: itpo train --resume runs.tiny/.exec(stdout)!;
  t.is((await openCheckpoint(join(folder, "runs", "tiny", "checkpoint"), createCpu())).state.step, Number(step));
});

test("--dry-run prints the resolved config and makes nothing", async (t) => {
  const folder = temporaryFolder(t);
  const { code, stdout, stderr } = await itpo(folder, ["train", "quickstart", "--dry-run", "seed=9"]);
  t.deepEqual([code, stderr], [0, ""]);
  t.deepEqual(parse(stdout), await loadTrainConfig("quickstart", ["seed=9"]));
  t.deepEqual(readdirSync(folder), []);
});

test("sft on consultations, then train on them, from the parquet file", async (t) => {
  const folder = temporaryFolder(t);
  const data = fixture("data", "medical.parquet");
  const scratch = ["layers=1", "hiddenSize=16", "heads=2", "kvHeads=1", "intermediateSize=24"].map(
    (value) => `model.scratch.${value}`,
  );
  const small = ["tokenizer.vocabSize=300", "sft.steps=2", "sft.batchSize=2", "sft.warmupSteps=1"];
  const sft = await itpo(folder, [
    "sft",
    "medical-sft",
    `data.train=${data}`,
    "data.heldOutShare=0.3",
    ...scratch,
    ...small,
  ]);
  t.is(sft.code, 0, sft.stderr);
  t.regex(sft.stdout, /held-out loss \d\.\d+ nats a token; model: runs.medical-sft.checkpoint.policy/);
  const train = await itpo(folder, [
    ...["train", "medical", `environment.train=${data}`, "environment.heldOutShare=0.3", "steps=1"],
    ...["rollout.prompts=2", "rollout.samples=2", "rollout.maxTurns=2", "rollout.maxTurnTokens=4"],
    ...["rollout.maxTokens=1024", "policy.miniBatch=4", "evaluate.conversations=2"],
  ]);
  t.is(train.code, 0, train.stderr);
  const rows = readFileSync(join(folder, "runs", "medical", "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  t.is(rows.length, 2);
  t.is((await openCheckpoint(join(folder, "runs", "medical", "checkpoint"), createCpu())).state.step, 1);
});

interface Mistake {
  /** Spoils the model folder or another file beside it, and gives the arguments. */
  readonly args: (folder: string, model: string) => readonly string[];
  readonly message: RegExp;
}

const scoring = (model: string, input = "in.json") => [
  "score",
  "--model",
  model,
  "--input",
  input,
  "--output",
  "out.json",
];

function configure(model: string, values: object): void {
  const path = join(model, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...values }));
}

function ask(folder: string, json: unknown): void {
  writeFileSync(join(folder, "in.json"), typeof json === "string" ? json : JSON.stringify(json));
}

const mistakes: Record<string, Mistake> = {
  "a missing folder": { args: () => scoring("nowhere"), message: /nowhere: no such folder; give a Hugging Face model/ },
  "truncated weights": {
    args(_, model) {
      truncateSync(join(model, "model.safetensors"), 3000);
      return scoring(model);
    },
    message: /model\.safetensors: .*download or copy it again/,
  },
  "lying weights": {
    args(_, model) {
      const path = join(model, "model.safetensors");
      writeFileSync(path, readFileSync(path, "latin1").replace('"shape":[16]', '"shape":[99]'), "latin1");
      return scoring(model);
    },
    message: /model\.safetensors: .*takes 396 bytes, its offsets span 64.*download or copy it again/,
  },
  "an unknown architecture": {
    args(_, model) {
      configure(model, { model_type: "llama" });
      return scoring(model);
    },
    message: /config\.json: model_type is "llama"; give a dense Qwen2/,
  },
  "rope scaling": {
    args(_, model) {
      configure(model, { rope_scaling: { type: "linear", factor: 2 } });
      return scoring(model);
    },
    message: /config\.json: rope_scaling asks for .*Choose a model without it/,
  },
  "a sliding window": {
    args(_, model) {
      configure(model, { use_sliding_window: true });
      return scoring(model);
    },
    message: /config\.json: use_sliding_window asks for .*Choose a model without it/,
  },
  "a sequence longer than the model allows": {
    args(folder, model) {
      ask(folder, { sequences: [[1, 2], Array(65).fill(3)] });
      return scoring(model);
    },
    message: /in\.json: sequence 1 has 65 tokens; the model allows 64: shorten it/,
  },
  "no input": { args: (_, model) => scoring(model, "nothing.json"), message: /nothing\.json: cannot be read as JSON/ },
  "input that is no JSON": {
    args(folder, model) {
      ask(folder, "{sequences\n");
      return scoring(model);
    },
    message: /in\.json: cannot be read as JSON/,
  },
  "an output that cannot be": {
    args: (_, model) => scoring(model).with(-1, "in.json/out.json"),
    message: /in\.json\/out\.json: cannot be written/,
  },
  "a device that does not exist": {
    args: (_, model) => [...scoring(model), "--device", "quantum"],
    message: /device 'quantum' does not exist; use auto, cuda, cuda:1, cpu/,
  },
  "an element type that does not exist": {
    args: (_, model) => [...scoring(model), "--dtype", "f8"],
    message: /--dtype is 'f8'; give f32 or bf16/,
  },
  "a recipe that does not exist": {
    args: () => ["train", "nothing"],
    message: /recipe 'nothing': .*; recipes are .*quickstart.*math-\{baseline\|/,
  },
  "no recipe": { args: () => ["train"], message: /name a recipe/ },
  "a config key that does not exist": {
    args: () => ["train", "quickstart", "policy.lrr=1"],
    message: /quickstart: policy\.lrr does not exist; remove it or correct its name/,
  },
  "an outcome metric that the environment does not have": {
    args: () => ["train", "quickstart", "outcome.metrics={diagnosis: 1}"],
    message: /outcome\.metrics names 'diagnosis'; the environment has accuracy/,
  },
  "heads that do not fit": {
    args: () => ["train", "quickstart", "model.scratch.heads=5"],
    message: /model\.scratch: 5 heads.*must divide hiddenSize/,
  },
  "conversations longer than the model allows": {
    args: () => ["train", "quickstart", "rollout.maxTokens=65"],
    message: /rollout\.maxTokens is 65, but the model has 64 positions; lower rollout\.maxTokens/,
  },
  "a parquet file without the columns": {
    args(folder) {
      const table = Table.fromIPCStream(tableToIPC(tableFromArrays({ prompt: ["a"], text: ["b"] }), "stream"));
      writeFileSync(join(folder, "other.parquet"), writeParquet(table));
      return ["sft", "medical-sft", "data.train=other.parquet"];
    },
    message: /other\.parquet: row 0: prompt: .*expected array.*Make the file by itpo data prepare/,
  },
  "too few cases to hold some out": {
    args: () => ["sft", "medical-sft", `data.train=${fixture("data", "medical-unusable.parquet")}`],
    message: /medical-unusable\.parquet: cannot hold out 0\.1 of 1 groups/,
  },
  "a parquet file that is none": {
    args(folder, model) {
      ask(folder, "not parquet at all");
      return ["train", "medical", "environment.train=in.json", `model.path=${model}`];
    },
    message: /in\.json/,
  },
  "data that are not there": {
    args: (_, model) => ["train", "medical", "environment.train=nothing.parquet", `model.path=${model}`],
    message: /environment\.train: nothing\.parquet is not there; set environment\.train=/,
  },
  "a model that is not there": {
    args: () => ["train", "quickstart", "model.path=nowhere"],
    message: /model\.path: nowhere is not there; set model\.path=/,
  },
  "a run that is not there": { args: () => ["train", "--resume", "runs/none"], message: /runs.none/ },
  "an sft run that is not there": { args: () => ["sft", "--resume", "runs/none"], message: /runs.none: no run there/ },
  "neither prompt nor message": { args: (_, model) => ["generate", "--model", model], message: /give one of --prompt/ },
  "a server for everybody without a key": {
    args: (_, model) => ["serve", "--model", model, "--host", "0.0.0.0"],
    message: /--host 0\.0\.0\.0 can be reached from other machines; set an API key/,
  },
  "a model without tokenizer": {
    args: (_, model) => ["generate", "--model", model, "--prompt", "hello"],
    message: /tokenizer/,
  },
  "a count that is none": {
    args: (_, model) => ["generate", "--model", model, "--prompt", "a", "--max-tokens", "many"],
    message: /--max-tokens is 'many'; give a whole number of at least 1/,
  },
};

for (const [what, { args, message }] of Object.entries(mistakes)) {
  test(`${what}: exit code 2, one line that says what to do, and nothing written`, async (t) => {
    const folder = temporaryFolder(t);
    const model = await modelFolder(t);
    ask(folder, { sequences: [[1, 2, 3]] });
    const words = args(folder, model);
    const before = readdirSync(folder);
    const { code, stdout, stderr } = await itpo(folder, words);
    t.is(code, 2, stderr);
    t.is(stdout, "");
    t.regex(stderr, /^itpo: [^\n]+\n$/);
    t.regex(stderr, message);
    t.deepEqual(readdirSync(folder), before);
  });
}

test("a run's folder that cannot be made is named", async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "runs"), "");
  const { code, stderr } = await itpo(folder, ["train", tinyRecipeFile(t)]);
  t.is(code, 2);
  t.regex(stderr, /^itpo: runs: runs cannot be written there .*; set output=FOLDER\n$/);
});

test("a mistake in the command itself is exit code 2 and no stack trace", async (t) => {
  const outcomes = await Promise.all(
    [["fly"], ["score"], ["train", "quickstart", "--fast"]].map((args) => itpo(temporaryFolder(t), args)),
  );
  for (const { code, stderr, stdout } of outcomes) {
    t.deepEqual([code, stdout], [2, ""]);
    t.regex(stderr, /^error: /);
    t.notRegex(stderr, / at .*\.js/);
  }
  const { code, stdout } = await itpo(temporaryFolder(t), ["--help"]);
  t.is(code, 0);
  for (const command of ["train", "sft", "generate", "chat", "serve", "score", "doctor"])
    t.regex(stdout, new RegExp(`^ +${command} `, "m"));
});
