import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { InputError } from "../../lib/index.js";
import type { EvaluationSummary } from "./summary.js";

/** The file with an evaluation's numbers, inside its folder. */
export const EVALUATION_FILE = "evaluation.json";

/** An evaluation as it is written down. */
export interface EvaluationRecord extends EvaluationSummary {
  readonly name: string;
  /** Model folder of the policy. */
  readonly model: string;
  readonly seed: number;
  /** Of the policy; users are sampled as the config says. */
  readonly temperature: number;
  readonly seconds: number;
  /** What users and judges took. */
  readonly calls: Readonly<Record<string, number>>;
}

/** What a comparison goes by. */
const form = z.looseObject({
  metrics: z.record(z.string(), z.looseObject({})),
  tasks: z.array(
    z.looseObject({ task: z.int(), opening: z.string(), values: z.record(z.string(), z.array(z.number())) }),
  ),
});

/** @throws InputError where the folder has no evaluation, or a damaged one. */
export async function readEvaluation(folder: string): Promise<EvaluationRecord> {
  const path = join(folder, EVALUATION_FILE);
  try {
    return form.parse(JSON.parse(await readFile(path, "utf8"))) as unknown as EvaluationRecord;
  } catch (error) {
    const why = error instanceof z.ZodError || error instanceof SyntaxError ? "is no evaluation" : "cannot be read";
    throw new InputError(`${path}: ${why}; give a folder that itpo eval wrote`);
  }
}
