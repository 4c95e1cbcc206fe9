import { existsSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import { InputError } from "../../lib/index.js";
import { loadTrainConfig } from "../config.js";
import { train } from "../run.js";

export async function trainCommand(
  recipe: string | undefined,
  overrides: readonly string[],
  { resume, dryRun }: { readonly resume?: string; readonly dryRun?: boolean },
): Promise<void> {
  if (!recipe && !resume) throw new InputError("name a recipe, such as quickstart, or a run with --resume");
  if (resume && !existsSync(join(resume, "config.yaml"))) {
    throw new InputError(`${resume}: no run there; give the folder of a run, such as runs/quickstart`);
  }
  // With --resume alone, the first word may be an override.
  const isOverride = resume !== undefined && recipe?.includes("=") && !/\.ya?ml$/.test(recipe);
  const source = resume && (isOverride || !recipe) ? join(resume, "config.yaml") : recipe!;
  const config = await loadTrainConfig(source, isOverride ? [recipe!, ...overrides] : overrides);
  if (dryRun) {
    process.stdout.write(stringify(config));
    return;
  }
  await train(config, { resume, signal: stopSignal() });
}

/** Aborted by the first Ctrl-C or termination request; a second one ends the process at once. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.once(name, () => {
      process.stderr.write("\nstopping after this step; once more to stop at once\n");
      controller.abort();
    });
  }
  return controller.signal;
}
