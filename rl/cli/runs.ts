import { existsSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../../lib/index.js";
import { loadTrainConfig, type TrainConfig } from "../config.js";
import { readRecipe } from "../recipe.js";

/**
 * The recipe to load and its overrides: with `resume` alone the run's own config.yaml, and the first word may be an
 * override.
 * @throws InputError where neither is given, or there is no run to resume.
 */
export function configSource(
  recipe: string | undefined,
  overrides: readonly string[],
  resume: string | undefined,
  example: string,
): [recipe: string, overrides: readonly string[]] {
  if (!recipe && !resume) throw new InputError(`name a recipe, such as ${example}, or a run with --resume`);
  if (resume && !existsSync(join(resume, "config.yaml"))) {
    throw new InputError(`${resume}: no run there; give the folder of a run, such as runs/${example}`);
  }
  const isOverride = resume !== undefined && recipe?.includes("=") && !/\.ya?ml$/.test(recipe);
  const source = resume && (isOverride || !recipe) ? join(resume, "config.yaml") : recipe!;
  return [source, isOverride ? [recipe!, ...overrides] : overrides];
}

/**
 * Loads a config in which `pass_rate` may run what the policy writes where the flag says so: never because of a file, which
 * may come from elsewhere.
 * @throws InputError where a config wants code run and the flag is missing, or the flag is given and nothing could run.
 */
export async function loadAllowing(
  flag: boolean | undefined,
  source: string,
  overrides: readonly string[],
): Promise<TrainConfig> {
  const { environment: given } = (await readRecipe(source, overrides)) as { environment?: { name?: unknown } };
  if (flag && given?.name !== "simulated") {
    throw new InputError("--allow-code-execution goes with environment.name simulated; leave it out");
  }
  const config = await loadTrainConfig(source, [
    ...overrides,
    ...(flag ? ["environment.allowCodeExecution=true"] : []),
  ]);
  const { environment } = config;
  if (!flag && "allowCodeExecution" in environment && environment.allowCodeExecution) {
    throw new InputError("this runs code that a model writes; give --allow-code-execution to allow it");
  }
  return config;
}

/** Aborted by the first Ctrl-C or termination request; a second one ends the process at once. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.once(name, () => {
      process.stderr.write("\nstopping after this step; once more to stop at once\n");
      controller.abort();
    });
  }
  return controller.signal;
}
