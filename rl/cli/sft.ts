import { loadSftConfig } from "../config.js";
import { trainSft } from "../sftRun.js";

export async function sftCommand(recipe: string, overrides: readonly string[]): Promise<void> {
  await trainSft(await loadSftConfig(recipe, overrides));
}
