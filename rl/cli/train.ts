import { existsSync } from "node:fs";
import { stringify } from "yaml";
import { filesOf, loadTrainConfig } from "../config.js";
import { train } from "../run.js";
import { configSource, stopSignal } from "./runs.js";

export async function trainCommand(
  recipe: string | undefined,
  overrides: readonly string[],
  { resume, dryRun }: { readonly resume?: string; readonly dryRun?: boolean },
): Promise<void> {
  const config = await loadTrainConfig(...configSource(recipe, overrides, resume, "quickstart"));
  if (dryRun) {
    process.stdout.write(stringify(config));
    for (const [key, path] of filesOf(config).filter(([, path]) => !existsSync(path))) {
      process.stderr.write(`note: ${key}: ${path} is not there\n`);
    }
    return;
  }
  await train(config, { resume, signal: stopSignal() });
}
