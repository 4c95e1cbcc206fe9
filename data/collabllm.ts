import { createHash } from "node:crypto";
import { z } from "zod";
import type { Message } from "../models/message.js";
import { checkedRows, messageForm } from "./checkedRows.js";
import type { Columns } from "./columnType.js";
import type { Row } from "./parquet.js";
import { parquetColumns } from "./parquetWriter.js";
import { rowFormat } from "./rows.js";
import { type Keyed, type Source, type SourceOptions, tally } from "./source.js";
import { type Task, toTask } from "./tasks.js";

/** The system message of CollabLLM's conversations. */
export const COLLABORATIVE_SYSTEM_PROMPT = [
  "You are an assistant who works together with the user until the task is done.",
  "Find out what the user really wants. Where something is unclear, ask instead of assuming, and ask for what matters",
  "most first; where there are few possibilities, offer them as a numbered choice.",
  "Make specific suggestions and say what could come next. Be accurate and well ordered, and say so when you do not",
  "know. Keep it short, repeat nothing, and speak in the user's tone.",
  "Show the user what you have and ask whether it is right, until it is.",
].join("\n");

const rowSchema = z.looseObject({
  prompt: z.array(messageForm),
  completion: z.string().nullish(),
  conv_id: z.union([z.number(), z.bigint(), z.string()]),
  turn_id: z.number().nullish(),
  score: z.number().nullish(),
  single_turn_prompt: z.string().nullish(),
  single_turn_completion: z.string().nullish(),
  ground_truth: z.string().nullish(),
});
type CollabRow = z.infer<typeof rowSchema>;

/**
 * Reads files of collabllm-multiturn-…, one candidate reply a row. Of the rows with one opening the first becomes a
 * task; of each conversation the longest row, and of those the one with the highest score, becomes a dialogue.
 * @throws InputError where a file cannot be read or a row is not of that form.
 */
export async function readCollab(options: SourceOptions): Promise<Source> {
  const { files, validationFiles = [], onRead } = options;
  const read: Record<string, number> = {};
  const [rl, sft] = [tally(), tally()];
  const tasks = new Map<string, Keyed<Task>>();
  const best = new Map<string, Candidate>();
  const links = new Map<string, string[]>();
  const validationKeys = new Set<string>();
  const columns: Columns = await columnsOf(files);

  for (const file of [...files, ...validationFiles]) {
    read[file] = 0;
    for await (const row of checkedRows(file, rowSchema, "Choose a file of collabllm-multiturn.")) {
      read[file]++;
      onRead?.(file, read[file]);
      const key = `conversation ${row.conv_id}`;
      const keys = row.single_turn_prompt ? [key, `request ${hash(row.single_turn_prompt)}`] : [key];
      links.set(JSON.stringify(keys), keys);
      if (validationFiles.includes(file)) for (const each of keys) validationKeys.add(each);

      const why = whyNoTask(row) ?? addTask(tasks, { key, value: taskOf(row, options.taskDesc) }, options);
      if (why) rl.add(why);
      const whyNot = whyNoDialogue(row) ?? addBest(best, key, candidateOf(row));
      if (whyNot) sft.add(whyNot);
    }
  }
  const dialogues = [...best].map(([key, { dialogue }]) => ({ key, value: dialogue }));
  const dropped = { rl: rl.counts, sft: sft.counts };
  return { tasks: [...tasks.values()], dialogues, links: [...links.values()], validationKeys, columns, read, dropped };
}

async function columnsOf(files: readonly string[]): Promise<Columns> {
  const declared: Columns = { conv_id: "int64", turn_id: "int64", score: "double" };
  return rowFormat(files[0]) === "parquet" ? { ...declared, ...(await parquetColumns(files[0])) } : declared;
}

function whyNoTask({ prompt, ...row }: CollabRow): string | undefined {
  if (spoken(prompt)[0]?.role !== "user") return "does not open with a user message";
  if (!row.single_turn_prompt?.trim()) return "has no single_turn_prompt";
  return referenceAnswer(row).trim() ? undefined : "has no reference answer";
}

function whyNoDialogue({ prompt, completion }: CollabRow): string | undefined {
  if (spoken(prompt)[0]?.role !== "user") return "does not open with a user message";
  if (prompt.at(-1)!.role !== "user") return "does not end with a user message";
  return completion?.trim() ? undefined : "has no completion";
}

function spoken(messages: readonly Message[]): Message[] {
  return messages.filter(({ role }) => role !== "system");
}

function referenceAnswer(row: Pick<CollabRow, "ground_truth" | "single_turn_completion" | "completion">): string {
  return row.ground_truth || row.single_turn_completion || row.completion || "";
}

function taskOf(row: CollabRow, taskDesc: string): Task {
  const { prompt, single_turn_prompt: singleTurnPrompt, ...rest } = row;
  return toTask({
    prompt: [{ role: "system", content: COLLABORATIVE_SYSTEM_PROMPT }, spoken(prompt)[0]],
    groundTruth: referenceAnswer(row),
    singleTurnPrompt: singleTurnPrompt!,
    taskDesc,
    dataSource: "collabllm",
    interaction: "collabllm",
    info: rest as Row,
  });
}

/** Adds the first task of an opening. Says why not, where there is one already. */
function addTask(tasks: Map<string, Keyed<Task>>, task: Keyed<Task>, options: SourceOptions): string | undefined {
  const { prompt, singleTurnPrompt } = task.value;
  const opening = JSON.stringify(prompt);
  const id = options.keepSharedOpenings ? `${opening}\n${singleTurnPrompt}` : opening;
  const earlier = tasks.get(id);
  if (!earlier) tasks.set(id, task);
  else if (earlier.value.singleTurnPrompt === singleTurnPrompt) return "repeats the opening of an earlier row";
  else return "opens like another task (--keep-shared-openings keeps it)";
}

/** A row as a dialogue to fine-tune on, and what decides between the rows of one conversation. */
interface Candidate {
  readonly dialogue: readonly Message[];
  readonly length: number;
  readonly score: number;
}

function candidateOf({ prompt, completion, turn_id, score }: CollabRow): Candidate {
  const system: Message = { role: "system", content: COLLABORATIVE_SYSTEM_PROMPT };
  return {
    dialogue: [system, ...spoken(prompt), { role: "assistant", content: completion! }],
    length: turn_id ?? prompt.length,
    score: score ?? Number.NEGATIVE_INFINITY,
  };
}

/** Keeps the better row of a conversation, and says why the other is not used. */
function addBest(best: Map<string, Candidate>, key: string, row: Candidate): string | undefined {
  const other = best.get(key);
  const isLonger = row.length - (other?.length ?? 0);
  if (!other || isLonger > 0 || (isLonger === 0 && row.score > other.score)) best.set(key, row);
  if (!other) return undefined;
  return isLonger === 0
    ? "a reply to the same turn scores at least as high"
    : "its conversation goes on in another row";
}

function hash(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
