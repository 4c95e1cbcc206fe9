import { createHash } from "node:crypto";
import { z } from "zod";
import type { Message } from "../models/message.js";
import { checkedRows, messageForm } from "./checkedRows.js";
import { type Columns, type ColumnType, inferType, MESSAGES } from "./columnType.js";
import type { Row } from "./parquet.js";

/** What one conversation of reinforcement learning starts from. */
export interface Task {
  /** Made of opening and hidden request, in the form of a UUID; the same in every run and on every machine. */
  readonly index: string;
  /** The system message and the user's opening, nothing more. */
  readonly prompt: readonly Message[];
  /** The reference answer that outcomes are scored against. */
  readonly groundTruth: string;
  /** The whole request, known to the simulated user and hidden from the policy. */
  readonly singleTurnPrompt: string;
  /** What the conversation is about, for the simulated user and for judges: "solving math problems". */
  readonly taskDesc: string;
  readonly dataSource: string;
  /** Whose interaction it is, `collabllm` or `medical`. */
  readonly interaction: string;
  /** The source's other columns. */
  readonly info: Row;
}

/** A task without the index that its content gives it. */
export function toTask(task: Omit<Task, "index">): Task {
  const hex = createHash("sha256")
    .update(JSON.stringify([task.prompt, task.singleTurnPrompt, task.dataSource]))
    .digest("hex");
  // Version 8, variant 10: a UUID whose bits are the maker's own (RFC 9562).
  const parts = [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    `8${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ];
  return { index: parts.join("-"), ...task };
}

/** A task as a row of the reference implementation's parquet files. */
export function taskRow(task: Task): Row {
  const { prompt, groundTruth, singleTurnPrompt, taskDesc } = task;
  const interaction = { name: task.interaction, single_turn_prompt: singleTurnPrompt, task_desc: taskDesc };
  return {
    prompt,
    ground_truth: groundTruth,
    raw_prompt: prompt,
    extra_info: { ...task.info, prompt, interaction_kwargs: interaction },
    reward_model: { ground_truth: groundTruth, style: "rule" },
    data_source: task.dataSource,
    agent_name: "itpo_collabllm_agent",
    index: task.index,
  };
}

/**
 * The columns of all these tasks, so that files which share them can be read as one table.
 * @param declared types of the source's columns, where the source tells them
 * @throws InputError where a source column mixes types.
 */
export function taskColumns(tasks: readonly Task[], declared: Columns = {}): Columns {
  const names = new Set(tasks.flatMap(({ info }) => Object.keys(info)));
  const info: Record<string, ColumnType> = {};
  for (const name of names)
    info[name] = inferType(
      tasks.map(({ info }) => info[name]),
      name,
      declared[name],
    );
  const interaction = { struct: { name: "string", single_turn_prompt: "string", task_desc: "string" } } as const;
  return {
    prompt: MESSAGES,
    ground_truth: "string",
    raw_prompt: MESSAGES,
    extra_info: { struct: { ...info, prompt: MESSAGES, interaction_kwargs: interaction } },
    reward_model: { struct: { ground_truth: "string", style: "string" } },
    data_source: "string",
    agent_name: "string",
    index: "string",
  };
}

const rowSchema = z.object({
  prompt: z.array(messageForm).min(1),
  ground_truth: z.string(),
  extra_info: z.looseObject({
    interaction_kwargs: z.object({ name: z.string(), single_turn_prompt: z.string(), task_desc: z.string() }),
  }),
  data_source: z.string(),
  index: z.string(),
});

/**
 * Reads what `itpo data prepare` wrote for reinforcement learning.
 * @throws InputError where the file cannot be read or is not of that form.
 */
export async function readTasks(path: string): Promise<Task[]> {
  const tasks: Task[] = [];
  const rows = checkedRows(path, rowSchema, "Make the file by itpo data prepare.", Object.keys(rowSchema.shape));
  for await (const data of rows) {
    const { prompt: _, interaction_kwargs: interaction, ...info } = data.extra_info;
    tasks.push({
      index: data.index,
      prompt: data.prompt,
      groundTruth: data.ground_truth,
      singleTurnPrompt: interaction.single_turn_prompt,
      taskDesc: interaction.task_desc,
      dataSource: data.data_source,
      interaction: interaction.name,
      info,
    });
  }
  return tasks;
}
