import { stringify } from "yaml";
import { loadTrainConfig } from "../config.js";
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
    return;
  }
  await train(config, { resume, signal: stopSignal() });
}
