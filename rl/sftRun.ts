import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { dialoguesForSft } from "../data/index.js";
import { InputError, openDevice } from "../lib/index.js";
import { CHATML, countParameters, type Message, saveQwen, type Tokenizer, trainBpe } from "../models/index.js";
import type { SftConfig } from "./config.js";
import { type TokenizedDialogue, tokenizeDialogue } from "./dialogue.js";
import { forwardRows, Learner } from "./learner.js";
import { noteSkipped, openLiveLine } from "./report/liveLine.js";
import { openMetrics, readMetrics } from "./report/metrics.js";
import { writeReport } from "./report/page.js";
import { makeRunFolder, writeConfig } from "./runFolder.js";
import { openPolicy, type Policy, readMedicalSplit } from "./setup.js";
import { fineTune, shuffledBatches } from "./sft.js";

/** Steps between measurements of the held-out loss, and how many dialogues these take. */
const LOOK_EVERY = 50;
const LOOK_DIALOGUES = 32;

/** A supervised run on a dialogue file; its folder's `checkpoint/policy` is a model that `itpo train` starts from. */
export async function trainSft(
  config: SftConfig,
  { print = console.log }: { readonly print?: (line: string) => void } = {},
): Promise<{ readonly folder: string; readonly heldOutLoss: number }> {
  const { train, heldOut, counts } = await readMedicalSplit(config.data.train, config.data.heldOutShare);
  const reasoning = config.data.reasoning;
  const [dialogues, heldOutDialogues] = [train, heldOut].map((cases) => dialoguesForSft(cases, { reasoning }));
  const ownTokenizer = config.tokenizer && (await trainTokenizer(dialogues, config.tokenizer.vocabSize));
  const backend = await openDevice(config.device);
  const policy = await openPolicy(config, backend, ownTokenizer);
  const limit = Math.min(config.data.maxTokens, policy.model.config.maxPositions);
  const [rows, heldOutRows] = [dialogues, heldOutDialogues].map((list) => tokenizeAll(list, policy, limit));
  if (rows.length === 0) throw new InputError(`no dialogue has at most ${limit} tokens; raise data.maxTokens`);

  const folder = await makeRunFolder(config.output, config.name);
  print(`${config.name} on ${backend.name} (${backend.description}), seed ${config.seed}, into ${folder}`);
  print(
    `${counts.read} rows, ${train.length + heldOut.length} cases; ${rows.length} dialogues to train on and ` +
      `${heldOutRows.length} held out, ${dialogues.length + heldOutDialogues.length - rows.length - heldOutRows.length} ` +
      `longer than ${limit} tokens left out; ${countParameters(policy.model.parameters).toLocaleString("en-US")} parameters`,
  );
  await writeConfig(folder, config);

  const metrics = openMetrics(folder);
  const line = openLiveLine({ steps: config.sft.steps });
  const learner = new Learner(policy.model, { ...config.sft, microBatchTokens: config.microBatchTokens });
  const started = performance.now();
  let tokens = 0;
  let heldOutLoss: number | undefined;
  await fineTune(learner, config.sft, shuffledBatches(rows, config.sft.batchSize, config.seed), async (done) => {
    tokens += done.tokens;
    const tokensPerSecond = tokens / ((performance.now() - started) / 1000);
    metrics.log({ "sft/loss": done.loss, "sft/grad_norm": done.gradNorm, "sft/tokens_per_s": tokensPerSecond });
    if (done.step % LOOK_EVERY === 0 || done.step === config.sft.steps) {
      heldOutLoss = await meanLoss(policy, heldOutRows.slice(0, LOOK_DIALOGUES), config.microBatchTokens);
      metrics.log({ "sft/held_out_loss": heldOutLoss });
    }
    metrics.flush(done.step);
    line.update({ step: done.step, values: { loss: done.loss, "held-out": heldOutLoss }, tokensPerSecond });
    noteSkipped(line, done.step, { model: Number(done.skipped) });
  });
  line.end();
  await saveQwen(policy.model, join(folder, "checkpoint", "policy"));
  await policy.tokenizer.save(join(folder, "checkpoint", "policy"));
  await writeReport(folder, {
    title: config.name,
    config,
    metrics: readMetrics(folder),
    transcripts: [],
    steps: config.sft.steps,
  });
  metrics.close();
  backend.close();
  print(`held-out loss ${heldOutLoss!.toFixed(3)} nats a token; model: ${join(folder, "checkpoint", "policy")}`);
  print(`curves: ${pathToFileURL(join(folder, "index.html"))}`);
  return { folder, heldOutLoss: heldOutLoss! };
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
