import { z } from "zod";
import { InputError } from "../lib/errors.js";
import type { Message } from "../models/message.js";
import { checkedRows, messageForm } from "./checkedRows.js";
import { answerOf } from "./doctorTurn.js";
import { dialoguesForSft, type MedicalCase, readMedicalCases } from "./mtmeddialog.js";
import { readRowBatches } from "./rows.js";
import { checkDisjoint, type Split, splitByKey, withoutKeys } from "./split.js";

export interface DialogueOptions {
  /** A file of MTMedDialog, or `sft_train.parquet` of `itpo data prepare`. */
  readonly train: string;
  /** A file of the same kind to hold out, in place of a share. */
  readonly validation?: string;
  /** Share of the cases, or of the openings, to hold out where there is no validation file. */
  readonly heldOutShare: number;
  /** Whether think blocks and answer tags stay in the assistant's turns. */
  readonly reasoning: boolean;
}

type Dialogue = readonly Message[];

/**
 * The dialogues to fine-tune on and to measure by. None of them is on both sides, nor two of one case.
 * @returns `rows`, how many the training file has.
 * @throws InputError where a file cannot be read, or is of neither kind.
 */
export async function readDialogueSplit(
  options: DialogueOptions,
): Promise<Split<Dialogue> & { readonly rows: number }> {
  const { train: path, validation, heldOutShare, reasoning } = options;
  const train = await readCases(path, reasoning);
  const keyOf = ({ key }: { key: string }) => key;
  let split: Split<Case>;
  if (validation !== undefined) {
    const { cases: heldOut } = await readCases(validation, reasoning);
    split = { train: withoutKeys(train.cases, heldOut, keyOf), heldOut };
    if (split.train.length === 0) throw new InputError(`${validation}: holds all of ${path}; give another file`);
  } else {
    try {
      split = splitByKey(train.cases, keyOf, { heldOut: heldOutShare });
    } catch (error) {
      throw error instanceof InputError ? new InputError(`${path}: ${error.message}`) : error;
    }
  }
  checkDisjoint(split, keyOf);
  const dialogues = (cases: readonly Case[]) => cases.flatMap((each) => each.dialogues);
  return { train: dialogues(split.train), heldOut: dialogues(split.heldOut), rows: train.rows };
}

/** Dialogues that stay together. */
interface Case {
  readonly key: string;
  readonly dialogues: readonly Dialogue[];
}

async function readCases(path: string, reasoning: boolean): Promise<{ cases: Case[]; rows: number }> {
  if (!(await isPrepared(path))) {
    const { cases, counts } = await readMedicalCases(path);
    const dialoguesOf = (each: MedicalCase) => dialoguesForSft([each], { reasoning });
    return { cases: cases.map((each) => ({ key: each.key, dialogues: dialoguesOf(each) })), rows: counts.read };
  }
  const cases: Case[] = [];
  for await (const { prompt: turns } of checkedRows(path, rowSchema, "Make the file by itpo data prepare.")) {
    const dialogue = reasoning ? turns : turns.map(withoutReasoning);
    cases.push({ key: JSON.stringify(turns.find(({ role }) => role === "user")), dialogues: [dialogue] });
  }
  return { cases, rows: cases.length };
}

/** MTMedDialog's rows say what they are worth; prepared ones are dialogues and nothing else. */
async function isPrepared(path: string): Promise<boolean> {
  for await (const rows of readRowBatches(path)) {
    for (const row of rows) return !Object.hasOwn(row, "reward_model");
  }
  throw new InputError(`${path}: has no rows; give another file`);
}

const rowSchema = z.object({
  prompt: z
    .array(messageForm)
    .min(1)
    .refine((messages) => messages.at(-1)!.role === "assistant", "the last message must be the assistant's"),
});

function withoutReasoning(turn: Message): Message {
  return turn.role === "assistant" ? { ...turn, content: answerOf(turn.content) } : turn;
}
