import { existsSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../../lib/index.js";
import type { TrainConfig } from "../config.js";
import { runEvaluation } from "../evaluation/run.js";
import { numberOption, optionalNumber } from "./number.js";
import { loadAllowing } from "./runs.js";

export interface EvalOptions {
  readonly checkpoint?: string;
  readonly samples: string;
  readonly prompts?: string;
  readonly output?: string;
  readonly allowCodeExecution?: boolean;
}

/** Evaluates the policy of a run, or any model in the environment of a recipe. */
export async function evalCommand(
  source: string,
  overrides: readonly string[],
  { checkpoint, allowCodeExecution, ...options }: EvalOptions,
): Promise<void> {
  const samples = numberOption("--samples", options.samples, { least: 1, most: 0xfffe });
  const prompts = optionalNumber("--prompts", options.prompts, { least: 1 });
  const run = existsSync(join(source, "config.yaml")) ? source : undefined;
  const config = await loadAllowing(allowCodeExecution, run ? join(run, "config.yaml") : source, overrides);
  const model = findModel(config, run, checkpoint);
  await runEvaluation(config, { ...options, model, samples, prompts });
}

/** Where a run keeps the policies that have names, in order of preference for none. */
const NAMED: Readonly<Record<string, string>> = { last: "checkpoint", best: "best" };

/**
 * The model folder that was named, or an error: never another one in its place.
 * @throws InputError where there is no model of that name.
 */
export function findModel(config: TrainConfig, run: string | undefined, checkpoint: string | undefined): string {
  if (run === undefined && checkpoint === undefined) {
    if ("path" in config.model) return config.model.path;
    throw new InputError("name the model with --checkpoint FOLDER; the recipe makes one from scratch");
  }
  const name = checkpoint ?? "last";
  const folder = run !== undefined && Object.hasOwn(NAMED, name) ? join(run, NAMED[name]) : name;
  const found = [join(folder, "policy"), folder].find((path) => existsSync(join(path, "config.json")));
  if (found !== undefined) return found;
  const known = run === undefined ? "a model folder" : `${Object.keys(NAMED).join(", ")} or a model folder`;
  throw new InputError(`--checkpoint ${name}: there is no model in ${folder}; give ${known}`);
}
