import { basename, dirname, join, resolve } from "node:path";
import { type Backend, InputError, openDevice, writeWhole } from "../../lib/index.js";
import type { TrainConfig } from "../config.js";
import { checkFailures, failureReasons } from "../failures.js";
import { writeEvaluationPage } from "../report/evaluationPage.js";
import { omitNonFinite, openTranscripts } from "../report/transcript.js";
import { checkLength, rollout } from "../rollout.js";
import { makeRunFolder, writeConfig } from "../runFolder.js";
import { openPolicy, openSetting, type Setting } from "../setup.js";
import { HELD_OUT_STEP } from "../trainer.js";
import { plainTranscript } from "../transcripts.js";
import { EVALUATION_FILE, type EvaluationRecord } from "./record.js";
import { summarize } from "./summary.js";
import { summaryTable } from "./table.js";

export interface EvaluationOptions {
  /** Model folder of the policy. */
  readonly model: string;
  /** Conversations for each held-out task. */
  readonly samples: number;
  /** Held-out tasks from the first on; default all. */
  readonly prompts?: number;
  /** Folder for the results, with a number behind its name where it is there already; default: one beside the runs. */
  readonly output?: string;
  readonly print?: (line: string) => void;
}

/**
 * Has conversations on held-out tasks with a policy as it lies in a folder, and writes a table, the numbers, transcripts
 * and a page. Policy and users are sampled, with noise that derives from the config's seed.
 * @throws InputError where the model, the environment or the folder will not do, or more fails than the config allows.
 */
export async function runEvaluation(
  config: TrainConfig,
  { model, samples, prompts, output, print = console.log }: EvaluationOptions,
): Promise<EvaluationRecord> {
  const started = performance.now();
  const backend = await openDevice(config.device);
  let setting: Setting | undefined;
  try {
    setting = await openSetting(config, backend);
    const converse = await prepareConversations(config, backend, setting, { model, samples, prompts });
    const folder = await (output
      ? makeRunFolder(dirname(resolve(output)), basename(resolve(output)))
      : makeRunFolder(config.output, `${config.name}-eval`));
    await writeConfig(folder, config);
    setting.keepReplies?.(folder);
    const trajectories = await converse();
    for (const [reason, count] of failureReasons(trajectories)) print(`${count} conversations failed: ${reason}`);
    checkFailures(trajectories, config.rollout.maxFailures);
    const record: EvaluationRecord = {
      name: config.name,
      model,
      seed: config.seed,
      temperature: config.evaluate.temperature,
      seconds: (performance.now() - started) / 1000,
      calls: setting.environment.takeMetrics?.() ?? {},
      ...summarize(trajectories, config),
    };
    await writeWhole(join(folder, EVALUATION_FILE), JSON.stringify(record, omitNonFinite, 2));
    const transcripts = trajectories.map((trajectory) => plainTranscript(trajectory, config));
    const file = openTranscripts(folder);
    file.append(transcripts);
    file.close();
    await writeEvaluationPage(folder, { record, transcripts, config });
    print(summaryTable(record));
    print(`written to ${folder}`);
    return record;
  } finally {
    setting?.close?.();
    backend.close();
  }
}

/** Checks and loads what the conversations need, so that nothing is written where they cannot be had. */
async function prepareConversations(
  config: TrainConfig,
  backend: Backend,
  { environment, tokenizer }: Setting,
  { model, samples, prompts = environment.heldOutSize }: Pick<EvaluationOptions, "model" | "samples" | "prompts">,
) {
  if (prompts > environment.heldOutSize) {
    throw new InputError(`--prompts is ${prompts}, but ${environment.heldOutSize} tasks are held out; lower it`);
  }
  const policy = await openPolicy({ ...config, model: { path: model } }, backend, tokenizer);
  checkLength(policy.model, config.rollout);
  const items = Array.from({ length: prompts * samples }, (_, i) => ({
    task: Math.floor(i / samples),
    sample: i % samples,
  }));
  return async () => {
    const { trajectories } = await rollout({
      ...config.rollout,
      ...{ environment, items },
      policy: policy.model,
      chat: policy.chat,
      split: "held_out",
      seed: config.seed,
      step: HELD_OUT_STEP,
      temperature: config.evaluate.temperature,
    });
    return trajectories;
  };
}
