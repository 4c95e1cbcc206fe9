import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { readDialogueSplit } from "../data/index.js";
import { InputError, openDevice } from "../lib/index.js";
import { CHATML, countParameters, type Message, type Tokenizer, trainBpe } from "../models/index.js";
import { checkUnchanged, openOptimizers, openState, saveCheckpoint } from "./checkpoint.js";
import type { SftConfig } from "./config.js";
import { type TokenizedDialogue, tokenizeDialogue } from "./dialogue.js";
import { forwardRows, Learner } from "./learner.js";
import { delayMetrics, watchLoopDelay } from "./loopDelay.js";
import { noteSkipped, openLiveLine } from "./report/liveLine.js";
import { openMetrics, readMetrics } from "./report/metrics.js";
import { writeReport } from "./report/page.js";
import type { RunOptions } from "./run.js";
import { makeRunFolder, writeConfig } from "./runFolder.js";
import { openPolicy, type Policy } from "./setup.js";
import { fineTune, type SftStep, shuffledBatches } from "./sft.js";

/** Steps between measurements of the held-out loss, and how many dialogues these take. */
const LOOK_EVERY = 50;
const LOOK_DIALOGUES = 32;

/** What a run is about cannot change on the way; its length and learning rate can. */
const FIXED = ["model", "seed", "data", "tokenizer"] as const;

/**
 * A supervised run on a dialogue file; its folder's `checkpoint/policy` is a model that `itpo train` starts from. Resumed
 * it comes to the same result as without the interruption. `heldOutLoss` is undefined where none was measured.
 */
export async function trainSft(
  config: SftConfig,
  options: RunOptions = {},
): Promise<{ readonly folder: string; readonly heldOutLoss?: number }> {
  const { print = console.log, resume, signal, stream } = options;
  const checkpoint = resume === undefined ? undefined : await openState(join(resume, "checkpoint"));
  if (checkpoint) checkUnchanged(config, checkpoint.state, FIXED, resume!);
  if (checkpoint && checkpoint.state.step >= config.sft.steps) {
    throw new InputError(`${resume}: all its ${config.sft.steps} steps are done; give sft.steps=N to go on`);
  }
  const { train: dialogues, heldOut: heldOutDialogues, rows: read } = await readDialogueSplit(config.data);
  const isFresh = !checkpoint && config.tokenizer;
  const ownTokenizer = isFresh ? await trainTokenizer(dialogues, isFresh.vocabSize) : undefined;
  const backend = await openDevice(config.device);
  const model = checkpoint ? { path: join(checkpoint.folder, "policy") } : config.model;
  const policy = await openPolicy({ ...config, model }, backend, ownTokenizer);
  const limit = Math.min(config.data.maxTokens, policy.model.config.maxPositions);
  const [rows, heldOutRows] = [dialogues, heldOutDialogues].map((list) => tokenizeAll(list, policy, limit));
  if (rows.length === 0) throw new InputError(`no dialogue has at most ${limit} tokens; raise data.maxTokens`);

  const folder = resume ?? (await makeRunFolder(config.output, config.name));
  print(`${config.name} on ${backend.name} (${backend.description}), seed ${config.seed}, into ${folder}`);
  print(
    `${read} rows; ${rows.length} dialogues to train on and ` +
      `${heldOutRows.length} held out, ${dialogues.length + heldOutDialogues.length - rows.length - heldOutRows.length} ` +
      `longer than ${limit} tokens left out; ${countParameters(policy.model.parameters).toLocaleString("en-US")} parameters`,
  );
  await writeConfig(folder, config);

  const metrics = openMetrics(folder);
  const loop = watchLoopDelay();
  let step = checkpoint?.state.step ?? 0;
  const line = openLiveLine({ steps: config.sft.steps, done: step, stream });
  const learner = new Learner(policy.model, { ...config.sft, microBatchTokens: config.microBatchTokens });
  if (checkpoint) await openOptimizers(checkpoint, { policy: learner });
  const save = () =>
    saveCheckpoint(join(folder, "checkpoint"), { policy: learner }, policy.tokenizer, { step, config });
  const started = performance.now();
  let tokens = 0;
  let heldOutLoss: number | undefined;
  const batches = shuffledBatches(rows, config.sft.batchSize, config.seed);
  const onStep = async (done: SftStep) => {
    step = done.step;
    tokens += done.tokens;
    const tokensPerSecond = tokens / ((performance.now() - started) / 1000);
    metrics.log({ "sft/loss": done.loss, "sft/grad_norm": done.gradNorm, "sft/tokens_per_s": tokensPerSecond });
    if (step % LOOK_EVERY === 0 || step === config.sft.steps) {
      heldOutLoss = await meanLoss(policy, heldOutRows.slice(0, LOOK_DIALOGUES), config.microBatchTokens);
      metrics.log({ "sft/held_out_loss": heldOutLoss });
    }
    metrics.log(delayMetrics(loop.take()));
    metrics.flush(step);
    line.update({ step, values: { loss: done.loss, "held-out": heldOutLoss }, tokensPerSecond });
    noteSkipped(line, step, { model: Number(done.skipped) });
    if (config.checkpoint.every > 0 && step % config.checkpoint.every === 0 && step < config.sft.steps) await save();
  };
  await fineTune(learner, config.sft, batches, onStep, { done: step, signal });
  line.end();
  loop.stop();
  await save();
  await writeReport(folder, {
    title: config.name,
    config,
    metrics: readMetrics(folder),
    transcripts: [],
    steps: config.sft.steps,
  });
  metrics.close();
  backend.close();
  const loss = heldOutLoss === undefined ? "" : `held-out loss ${heldOutLoss.toFixed(3)} nats a token; `;
  print(`${loss}model: ${join(folder, "checkpoint", "policy")}`);
  print(`curves: ${pathToFileURL(join(folder, "index.html"))}`);
  if (step < config.sft.steps) print(`stopped after step ${step}; go on with: itpo sft --resume ${folder}`);
  return { folder, heldOutLoss };
}

function trainTokenizer(dialogues: readonly (readonly Message[])[], vocabSize: number): Promise<Tokenizer> {
  const texts = dialogues.flatMap((dialogue) => dialogue.map(({ content }) => content));
  return trainBpe(texts, {
    vocabSize,
    specialTokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    config: { chatTemplate: CHATML, eosToken: "<|im_end|>", padToken: "<|endoftext|>" },
  });
}

function tokenizeAll(dialogues: readonly (readonly Message[])[], policy: Policy, limit: number): TokenizedDialogue[] {
  return dialogues.map((dialogue) => tokenizeDialogue(dialogue, policy)).filter(({ tokens }) => tokens.length <= limit);
}

/** Cross-entropy per assistant token, in nats. */
async function meanLoss(
  { model }: Policy,
  rows: readonly TokenizedDialogue[],
  microBatchTokens: number,
): Promise<number> {
  const outputs = await forwardRows(model, rows, { microBatchTokens });
  let [sum, count] = [0, 0];
  rows.forEach(({ turns }, i) => {
    for (const { start, end } of turns) {
      for (let t = start; t < end; t++) sum -= outputs[i].logprobs[t];
      count += end - start;
    }
  });
  return sum / count;
}
