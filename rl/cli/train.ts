import { existsSync } from "node:fs";
import { stringify } from "yaml";
import { filesOf } from "../config.js";
import { train } from "../run.js";
import { configSource, loadAllowing, stopSignal } from "./runs.js";

export interface TrainOptions {
  readonly resume?: string;
  readonly dryRun?: boolean;
  readonly allowCodeExecution?: boolean;
}

export async function trainCommand(
  recipe: string | undefined,
  overrides: readonly string[],
  { resume, dryRun, allowCodeExecution }: TrainOptions,
): Promise<void> {
  const [source, own] = configSource(recipe, overrides, resume, "quickstart");
  const config = await loadAllowing(allowCodeExecution, source, own);
  if (dryRun) {
    process.stdout.write(stringify(config));
    for (const [key, path] of filesOf(config).filter(([, path]) => !existsSync(path))) {
      process.stderr.write(`note: ${key}: ${path} is not there\n`);
    }
    return;
  }
  await train(config, { resume, signal: stopSignal() });
}
