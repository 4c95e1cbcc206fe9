import { existsSync } from "node:fs";
import { z } from "zod";
import { readParquet } from "../../../data/parquet.js";
import { InputError } from "../../../lib/index.js";
import type { Message } from "../../../models/message.js";
import { readJsonLines } from "../../report/jsonLines.js";

/** One task of a prepared data set. */
export interface SimulatedTask {
  /** Messages before the assistant's first turn. */
  readonly prompt: readonly Message[];
  /** The reference answer that outcomes are scored against. */
  readonly groundTruth: string;
  /** The whole request, known to the simulated user and hidden from the policy. */
  readonly singleTurnPrompt: string;
  /** What the conversation is about, such as "solving math problems". */
  readonly taskDesc: string;
}

const row = z.looseObject({
  prompt: z
    .array(z.looseObject({ role: z.enum(["system", "user", "assistant"]), content: z.string() }))
    .min(1)
    .refine((messages) => messages.at(-1)!.role === "user", "the last message must be the user's"),
  ground_truth: z.string(),
  extra_info: z.looseObject({
    interaction_kwargs: z.looseObject({ single_turn_prompt: z.string(), task_desc: z.string().min(1) }),
  }),
});

/**
 * The tasks of a file that `itpo data prepare` wrote: parquet, or JSON lines (`.jsonl`) with the same columns `prompt`,
 * `ground_truth` and `extra_info.interaction_kwargs` (`single_turn_prompt`, `task_desc`).
 * @throws InputError where the file is missing, empty, or lacks what a task needs.
 */
export async function readTasks(path: string): Promise<SimulatedTask[]> {
  const rows = await readRows(path);
  if (rows.length === 0) throw new InputError(`${path}: holds no task; prepare the data anew`);
  return rows.map((raw, i) => {
    const parsed = row.safeParse(raw);
    if (!parsed.success) {
      const [{ path: field, message }] = parsed.error.issues;
      throw new InputError(
        `${path}, row ${i + 1}: ${field.join(".")}: ${message}; prepare the data with itpo data prepare`,
      );
    }
    const { prompt, ground_truth, extra_info } = parsed.data;
    return {
      prompt: prompt.map(({ role, content }) => ({ role, content })),
      groundTruth: ground_truth,
      singleTurnPrompt: extra_info.interaction_kwargs.single_turn_prompt,
      taskDesc: extra_info.interaction_kwargs.task_desc,
    };
  });
}

async function readRows(path: string): Promise<unknown[]> {
  if (!existsSync(path)) throw new InputError(`${path}: no such file; prepare the data with itpo data prepare`);
  if (path.endsWith(".jsonl")) return readJsonLines(path);
  return readParquet(path, { columns: ["prompt", "ground_truth", "extra_info"] });
}
