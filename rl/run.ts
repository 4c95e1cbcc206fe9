import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Backend, InputError, openDevice } from "../lib/index.js";
import { chatRenderer, countParameters, loadTokenizer, type Qwen } from "../models/index.js";
import { creditAlignment } from "./alignment.js";
import {
  type Checkpoint,
  checkUnchanged,
  openCheckpoint,
  openOptimizers,
  type RunState,
  readBestPolicy,
  saveBestPolicy,
  saveCheckpoint,
} from "./checkpoint.js";
import { filesOf, needsCritic, needsPrm, type TrainConfig } from "./config.js";
import { scriptBatches } from "./environments/warmup.js";
import { evaluate, probeConversations } from "./evaluate.js";
import { forwardRows, Learner } from "./learner.js";
import { delayMetrics, watchLoopDelay } from "./loopDelay.js";
import type { Proportion } from "./objective/index.js";
import { type LiveStream, noteSkipped, openLiveLine } from "./report/liveLine.js";
import { openMetrics, readMetrics } from "./report/metrics.js";
import { writeReport } from "./report/page.js";
import { openTranscripts } from "./report/transcript.js";
import { checkLength } from "./rollout.js";
import { makeRunFolder, writeConfig } from "./runFolder.js";
import { openPolicy, openSetting, type Policy, type Setting } from "./setup.js";
import { fineTune } from "./sft.js";
import { Trainer } from "./trainer.js";
import { heldOutTranscripts, trainingTranscripts } from "./transcripts.js";

export interface RunOptions {
  /** Folder of a run to go on with, from its last checkpoint. */
  readonly resume?: string;
  /** Where lines for people go; default standard output. */
  readonly print?: (line: string) => void;
  /** Once aborted, the run saves a checkpoint after the current step and ends. */
  readonly signal?: AbortSignal;
  /** Where the live line goes; default standard error. */
  readonly stream?: LiveStream;
}

/** What a run came to. */
export interface RunResult {
  readonly folder: string;
  /** Mean held-out outcome before and after training. */
  readonly before: number;
  readonly after: number;
  /** Credit against the truth at mid-training and at the end, where the environment knows the truth. */
  readonly alignment: readonly { readonly step: number; readonly methods: Readonly<Record<string, Proportion>> }[];
  /** Seconds of warm-up and training, evaluations included. */
  readonly seconds: number;
}

/**
 * A whole training run: warm-up, training steps, evaluations, and a folder with the resolved config, metrics,
 * transcripts, an HTML page and a checkpoint.
 */
export async function train(config: TrainConfig, options: RunOptions = {}): Promise<RunResult> {
  const { print = console.log } = options;
  const missing = options.resume ? undefined : filesOf(config).find(([, path]) => !existsSync(path));
  if (missing) throw new InputError(`${missing[0]}: ${missing[1]} is not there; set ${missing[0]}=…`);
  const backend = await openDevice(config.device);
  let setting: Setting | undefined;
  try {
    setting = await openSetting(config, backend);
    const checkpoint = options.resume ? await openCheckpoint(join(options.resume, "checkpoint"), backend) : undefined;
    if (checkpoint && checkpoint.state.step >= config.steps) {
      throw new InputError(`${options.resume}: all its ${config.steps} steps are done; give steps=N to go on`);
    }
    if (checkpoint) checkResumable(config, checkpoint, options.resume!);
    const policy = checkpoint
      ? await checkpointPolicy(checkpoint)
      : await openPolicy(config, backend, setting.tokenizer);
    checkLength(policy.model, config.rollout);
    const folder = options.resume ?? (await makeRunFolder(config.output, config.name));
    print(`${config.name} on ${backend.name} (${backend.description}), seed ${config.seed}, into ${folder}`);
    print(describeModel(policy.model, setting));
    await writeConfig(folder, config);
    setting.keepReplies?.(folder);

    const started = performance.now();
    if (config.warmup && !checkpoint) await warmUp(config, config.warmup, policy, setting, options);
    const trainer = new Trainer(config, {
      ...policy,
      policy: policy.model,
      environment: setting.environment,
      reference: checkpoint?.reference,
      prm: checkpoint?.prm,
      critic: checkpoint?.critic,
      klCoefficient: checkpoint?.state.klCoefficient,
    });
    if (checkpoint) await openOptimizers(checkpoint, trainer);
    const run = { ...options, config, print, backend, folder, setting, policy, trainer, started };
    return await trainingLoop(run, checkpoint?.state);
  } finally {
    setting?.close?.();
    backend.close();
  }
}

async function checkpointPolicy({ folder, policy }: Checkpoint): Promise<Policy> {
  const tokenizer = await loadTokenizer(join(folder, "policy"));
  return { model: policy, tokenizer, chat: chatRenderer(tokenizer) };
}

/** What a run is about cannot change on the way; limits, evaluation and learning rates can. */
const FIXED = ["model", "seed", "environment", "warmup"] as const;

/** Where users and judges are asked, and how patiently, may change, too. */
function essence({ model, seed, environment, warmup }: TrainConfig): Record<(typeof FIXED)[number], unknown> {
  if (environment?.name !== "simulated") return { model, seed, environment, warmup };
  const { name, train, heldOut, user } = environment;
  return { model, seed, environment: { name, train, heldOut, persona: user.persona }, warmup };
}

function checkResumable(config: TrainConfig, { state, prm, critic }: Checkpoint, folder: string): void {
  checkUnchanged(essence(config), { ...state, config: essence(state.config as TrainConfig) }, FIXED, folder);
  if (needsPrm(config) && !prm) {
    throw new InputError(`${folder}: its checkpoint has no reward model (prm), which credit.method needs; start anew`);
  }
  if (needsCritic(config) && !critic) {
    throw new InputError(`${folder}: its checkpoint has no critic, which credit or advantage needs; start anew`);
  }
}

function describeModel(model: Qwen, { ceilings }: Setting): string {
  const levels = ceilings.map(({ label, value }) => `${label} ${value.toFixed(3)}`).join(", ");
  const size = countParameters(model.parameters).toLocaleString("en-US");
  return `${model.config.architecture}, ${size} parameters${levels && `; outcome of a policy that … ${levels}`}`;
}

/** Supervised steps on the environment's scripts, which know the format and nothing of the task. */
async function warmUp(
  config: TrainConfig,
  warmup: NonNullable<TrainConfig["warmup"]>,
  policy: Policy,
  { environment, script }: Setting,
  { stream, signal }: RunOptions,
): Promise<void> {
  const line = openLiveLine({ steps: warmup.steps, stream });
  const learner = new Learner(policy.model, { ...warmup, microBatchTokens: config.microBatchTokens });
  const batches = scriptBatches(policy, script!, {
    size: warmup.batchSize,
    games: environment.size,
    seed: config.seed,
  });
  const started = performance.now();
  let tokens = 0;
  await fineTune(learner, warmup, batches, ({ step, loss, skipped, tokens: more }) => {
    tokens += more;
    line.update({
      step,
      values: { "warm-up loss": loss },
      tokensPerSecond: tokens / ((performance.now() - started) / 1000),
    });
    noteSkipped(line, step, { model: Number(skipped) });
    if (!signal?.aborted) return;
    line.end();
    throw new InputError("stopped during the warm-up, which keeps nothing; start the run again");
  });
  line.end();
  learner.optimizer.dispose();
}

interface Run {
  readonly config: TrainConfig;
  readonly print: (line: string) => void;
  readonly backend: Backend;
  readonly folder: string;
  readonly setting: Setting;
  readonly policy: Policy;
  readonly trainer: Trainer;
  /** performance.now() when the run began. */
  readonly started: number;
  readonly signal?: AbortSignal;
  readonly stream?: LiveStream;
}

const HELD_OUT = "held_out/outcome";
/** Where the policy with the best held-out outcome is, inside the run's folder. */
const BEST = "best";

async function trainingLoop(run: Run, resumed: RunState | undefined): Promise<RunResult> {
  const { config, print, folder, trainer } = run;
  const { steps } = config;
  const metrics = openMetrics(folder);
  const loop = watchLoopDelay();
  const transcripts = openTranscripts(folder);
  const line = openLiveLine({ steps, done: resumed?.step, stream: run.stream });
  const report = () =>
    writeReport(folder, { ...reportFacts(run), metrics: readMetrics(folder), transcripts: transcripts.kept });
  const probe = config.evaluate.probe > 0 && trainer.prm ? await openProbe(trainer) : undefined;
  const alignment: { step: number; methods: Record<string, Proportion> }[] = [];
  const middle = middleStep(config);
  let step = resumed?.step ?? 0;
  const known = readMetrics(folder).findLast((row) => typeof row[HELD_OUT] === "number");
  let outcome = known?.[HELD_OUT] ?? Number.NaN;
  let lookedAt = known?.step ?? 0;
  let best = resumed && (await readBestPolicy(join(folder, BEST)));

  /** Measures the policy as it is after `step` steps and writes everything down. */
  const look = async () => {
    const evaluation = await evaluate(trainer, step);
    outcome = evaluation.outcome;
    lookedAt = step;
    metrics.log(evaluation.metrics);
    if (config.checkpoint.best && step > 0 && outcome > (best?.outcome ?? Number.NEGATIVE_INFINITY)) {
      best = { step, outcome };
      await saveBestPolicy(join(folder, BEST), run.policy.model, run.policy.tokenizer, best);
    }
    if (probe && (step === steps || step === middle)) {
      const methods = creditAlignment(
        probe.trajectories,
        await trainer.scorePrm(probe.trajectories, probe.reference),
        config,
      );
      if (methods.chance.trials > 0) alignment.push({ step, methods });
      metrics.log(Object.fromEntries(Object.entries(methods).map(([name, { share }]) => [`credit/${name}`, share])));
    }
    transcripts.append(await heldOutTranscripts(trainer, step, evaluation.trajectories));
  };

  if (!resumed) {
    await look();
    metrics.flush(step);
  }
  const before = resumed?.before ?? outcome;
  const save = () =>
    saveCheckpoint(join(folder, "checkpoint"), trainer, run.policy.tokenizer, {
      step,
      config,
      before,
      ...(config.policy.klReward.controller === "adaptive" && { klCoefficient: trainer.klCoefficient }),
    });

  const trainOneStep = async () => {
    const result = await trainer.step(step + 1);
    step++;
    metrics.log(result.metrics);
    const { every } = config.evaluate;
    const isLooking = step === steps || (every > 0 && step % every === 0);
    if (isLooking) {
      transcripts.append(trainingTranscripts(trainer, step, result));
      await look();
    }
    metrics.log(delayMetrics(loop.take()));
    metrics.flush(step);
    line.update({
      step,
      values: { outcome: result.metrics["outcome/mean"], "held-out": outcome, "PRM loss": result.metrics["prm/loss"] },
      tokensPerSecond: result.metrics["rollout/tokens_per_s"],
    });
    noteSkipped(line, step, {
      policy: result.metrics["policy/skipped"],
      "reward model": result.metrics["prm/skipped"],
      critic: result.metrics["critic/skipped"],
    });
    if (isLooking) await report();
    if (config.checkpoint.every > 0 && step % config.checkpoint.every === 0 && step < steps) await save();
  };
  try {
    while (step < steps && !run.signal?.aborted) await trainOneStep();
  } catch (error) {
    line.end();
    // Too much failed: the step stopped before anything was learnt in it.
    if (error instanceof InputError && step > 0) await save();
    throw error;
  }
  line.end();
  loop.stop();
  await save();
  await report();
  metrics.close();
  transcripts.close();
  const seconds = (performance.now() - run.started) / 1000;
  const result = { folder, before, after: outcome, alignment, seconds };
  summarize(run, result, lookedAt);
  if (step < steps) print(`stopped after step ${step}; go on with: itpo train --resume ${folder}`);
  return result;
}

/** The fixed conversations on which credit is scored, with what the reference says of them. */
async function openProbe(trainer: Trainer) {
  const trajectories = await probeConversations(trainer);
  return { trajectories, reference: await forwardRows(trainer.reference, trajectories, trainer.config) };
}

/** The first step from the middle of the run on at which it is evaluated. */
function middleStep({ steps, evaluate: { every } }: TrainConfig): number {
  return every > 0 ? Math.min(steps, Math.ceil(steps / 2 / every) * every) : steps;
}

function reportFacts({ config, backend, policy, setting }: Run) {
  const { model } = policy;
  return {
    title: config.name,
    config,
    steps: config.steps,
    ceilings: setting.ceilings,
    facts: {
      device: backend.name,
      engine: backend.description,
      model: `${model.config.architecture}, ${countParameters(model.parameters).toLocaleString("en-US")} parameters`,
      seed: config.seed,
    },
  };
}

function summarize({ print, folder }: Run, { before, after, alignment, seconds }: RunResult, step: number): void {
  print(
    `held-out outcome ${before.toFixed(3)} → ${after.toFixed(3)} after ${step} steps, ${seconds.toFixed(1)} s of training`,
  );
  for (const { step: at, methods } of alignment) {
    if (methods.chance.trials === 0) continue;
    const shares = Object.entries(methods).map(
      ([name, { share, low, high }]) => `${name} ${share.toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}]`,
    );
    print(`step ${at}: the largest turn reward is the turn that earned the outcome: ${shares.join(", ")}`);
  }
  print(`curves and conversations: ${pathToFileURL(join(folder, "index.html"))}`);
}
