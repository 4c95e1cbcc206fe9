import { readFile } from "node:fs/promises";
import { join } from "node:path";
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

/** @throws InputError where the folder has no evaluation. */
export async function readEvaluation(folder: string): Promise<EvaluationRecord> {
  const path = join(folder, EVALUATION_FILE);
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch {
    throw new InputError(`${path}: cannot be read; give the folder of an evaluation by itpo eval`);
  }
}
