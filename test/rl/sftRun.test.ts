import { readFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { InputError } from "../../lib/index.js";
import { openState } from "../../rl/checkpoint.js";
import { loadSftConfig } from "../../rl/config.js";
import { readMetrics } from "../../rl/report/metrics.js";
import { trainSft } from "../../rl/sftRun.js";
import { fixture } from "../support.js";
import { temporaryFolder } from "../temporary.js";

const quiet = { print: () => {}, stream: { write: () => {} } };

/** A tiny run of six steps into a fresh folder; asked to stop once its live line shows step `stopAfter`. */
async function run(t: ExecutionContext, stopAfter?: number) {
  const small = ["layers=1", "hiddenSize=16", "heads=2", "kvHeads=1", "intermediateSize=24"];
  const config = await loadSftConfig("medical-sft", [
    ...[`output=${temporaryFolder(t)}`, `data.train=${fixture("data", "medical.parquet")}`, "data.heldOutShare=0.3"],
    ...small.map((value) => `model.scratch.${value}`),
    ...["device=cpu", "tokenizer.vocabSize=300", "sft.steps=6", "sft.batchSize=2", "sft.warmupSteps=1"],
    "checkpoint.every=1",
  ]);
  const controller = new AbortController();
  const write = (line: string) => {
    if (line.includes(`step ${stopAfter}/6`)) controller.abort();
  };
  const result = await trainSft(config, { ...quiet, signal: controller.signal, stream: { isTTY: true, write } });
  return { ...result, config };
}

test("an sft run that stopped after two steps and was resumed is one that never stopped, bit for bit", async (t) => {
  const [whole, stopped] = [await run(t), await run(t, 2)];
  t.is((await openState(join(stopped.folder, "checkpoint"))).state.step, 2);
  t.is(stopped.heldOutLoss, undefined);
  const resumed = await trainSft(stopped.config, { ...quiet, resume: stopped.folder });
  t.is(resumed.heldOutLoss, whole.heldOutLoss);
  for (const file of ["policy/model.safetensors", "policy.optimizer.safetensors", "policy/tokenizer.json"]) {
    const [a, b] = [whole, stopped].map(({ folder }) => readFile(join(folder, "checkpoint", file)));
    t.deepEqual(await a, await b, file);
  }
  const losses = (folder: string) =>
    readMetrics(folder).map((row) => [row.step, row["sft/loss"], row["sft/grad_norm"]]);
  t.deepEqual(losses(stopped.folder), losses(whole.folder));
  const again = trainSft(stopped.config, { ...quiet, resume: stopped.folder });
  await t.throwsAsync(again, { instanceOf: InputError, message: /all its 6 steps are done; give sft\.steps=N/ });
  const other = trainSft({ ...stopped.config, seed: 9 }, { ...quiet, resume: stopped.folder });
  await t.throwsAsync(other, { instanceOf: InputError, message: /seed differs from what the run began with/ });
});
