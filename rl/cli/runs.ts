import { existsSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../../lib/index.js";
import type { TrainConfig } from "../config.js";

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
 * The override that lets `pass_rate` run what the policy writes: the flag alone says so, never a file that came from
 * elsewhere.
 */
export function allowCode(flag: boolean | undefined): string[] {
  return flag ? ["environment.allowCodeExecution=true"] : [];
}

/** @throws InputError where a config wants code run and the flag is missing. */
export function checkCodeAllowed({ environment }: TrainConfig, flag: boolean | undefined): void {
  if (!flag && "allowCodeExecution" in environment && environment.allowCodeExecution) {
    throw new InputError("this runs code that a model writes; give --allow-code-execution to allow it");
  }
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
