import { loadSftConfig } from "../config.js";
import { trainSft } from "../sftRun.js";
import { configSource, stopSignal } from "./runs.js";

export async function sftCommand(
  recipe: string | undefined,
  overrides: readonly string[],
  { resume }: { readonly resume?: string },
): Promise<void> {
  const config = await loadSftConfig(...configSource(recipe, overrides, resume, "medical-sft"));
  await trainSft(config, { resume, signal: stopSignal() });
}
