import { join } from "node:path";
import { InputError } from "../lib/errors.js";
import { writeTogether } from "../lib/files.js";
import type { Message } from "../models/message.js";
import { type Columns, MESSAGES } from "./columnType.js";
import { datasetByName } from "./datasets.js";
import type { Row } from "./parquet.js";
import { toParquet } from "./parquetWriter.js";
import { dataFiles } from "./rows.js";
import type { Keyed, Source } from "./source.js";
import { checkDisjoint, joinGroups, type Split, splitByKey } from "./split.js";
import { type Task, taskColumns, taskRow } from "./tasks.js";

export interface PrepareOptions {
  /** A file, or a folder of files. */
  readonly input: string;
  /** A file or folder whose conversations are held out, in place of a share. */
  readonly validation?: string;
  /** The folder to write to. Files of the same names are replaced. */
  readonly output: string;
  /** A share of the conversations in (0, 1), or how many. Default 0.1. */
  readonly heldOut?: number;
  /** Default 42. */
  readonly seed?: number;
  /** Default: the dataset's. */
  readonly taskDesc?: string;
  readonly keepSharedOpenings?: boolean;
  readonly onRead?: (file: string, rows: number) => void;
}

export interface PrepareReport {
  /** Rows read, by file. */
  readonly read: Source["read"];
  /** Why rows became no task, and no dialogue. Both times read = written + dropped. */
  readonly dropped: Source["dropped"];
  /** Rows written, by file. */
  readonly written: Readonly<Record<string, number>>;
}

/**
 * Makes `rl_train`, `rl_validation`, `sft_train` and `sft_validation.parquet` of a dataset's files, in the columns of
 * the reference implementation. Conversations that belong together, and all their rows, fall on one side of the split,
 * the same one for both uses; the same files give the same bytes.
 * @throws InputError where a file cannot be read or written, or nothing is left for one side.
 */
export async function prepare(name: string, options: PrepareOptions): Promise<PrepareReport> {
  const dataset = datasetByName(name);
  const { validation, taskDesc = dataset.taskDesc, keepSharedOpenings, onRead } = options;
  if (!taskDesc.trim()) throw new InputError("the task's description is empty; say what the conversations are about");
  const files = await dataFiles(options.input);
  const validationFiles = validation === undefined ? [] : await dataFiles(validation);
  const others = files.filter((file) => !validationFiles.includes(file));
  if (others.length === 0)
    throw new InputError(`${validation}: is all there is; give other files to train on by --input`);
  const source = await dataset.read({ files: others, validationFiles, taskDesc, keepSharedOpenings, onRead });
  if (source.tasks.length === 0) throw new InputError(`${options.input}: ${whyNothing(source)}; give another file`);

  const { rl, sft } = splitSource(source, options, validation !== undefined);
  const columns = taskColumns(
    source.tasks.map(({ value }) => value),
    source.columns,
  );
  const dialogueRows = (items: readonly Keyed<readonly Message[]>[]) => items.map(({ value }) => ({ prompt: value }));
  const taskRows = (items: readonly Keyed<Task>[]) => items.map(({ value }) => taskRow(value));
  const tables: [file: string, rows: Row[], types: Columns][] = [
    ["rl_train.parquet", taskRows(rl.train), columns],
    ["rl_validation.parquet", taskRows(rl.heldOut), columns],
    ["sft_train.parquet", dialogueRows(sft.train), { prompt: MESSAGES }],
    ["sft_validation.parquet", dialogueRows(sft.heldOut), { prompt: MESSAGES }],
  ];
  const outputs: [path: string, bytes: Uint8Array][] = [];
  for (const [file, rows, types] of tables) outputs.push([join(options.output, file), await toParquet(rows, types)]);
  // An interruption must not leave files of two splits beside each other.
  await writeTogether(outputs);
  const written = Object.fromEntries(tables.map(([file, rows]) => [file, rows.length]));
  return { read: source.read, dropped: source.dropped, written };
}

/** One split of the groups, for tasks and dialogues alike, so that no dialogue teaches what a held-out task asks. */
function splitSource(source: Source, { heldOut = 0.1, seed = 42 }: PrepareOptions, isGiven: boolean) {
  const groupOf = joinGroups(source.links);
  const keyOf = ({ key }: { key: string }) => groupOf(key);
  const groups = [...new Set([...source.tasks, ...source.dialogues].map(keyOf))].map((key) => ({ key }));
  const given = new Set([...source.validationKeys].map(groupOf));
  const isHeldOut = isGiven
    ? given
    : new Set(splitByKey(groups, ({ key }) => key, { heldOut, seed }).heldOut.map(({ key }) => key));
  const split = <T>(items: readonly Keyed<T>[]): Split<Keyed<T>> => ({
    train: items.filter((item) => !isHeldOut.has(keyOf(item))),
    heldOut: items.filter((item) => isHeldOut.has(keyOf(item))),
  });
  const [rl, sft] = [split(source.tasks), split(source.dialogues)];
  if (rl.train.length === 0) throw new InputError("every conversation is held out; hold out less");
  checkDisjoint({ train: [...rl.train, ...sft.train], heldOut: [...rl.heldOut, ...sft.heldOut] }, keyOf);
  return { rl, sft };
}

function whyNothing({ read, dropped }: Source): string {
  const rows = Object.values(read).reduce((sum, n) => sum + n, 0);
  if (rows === 0) return "has no rows";
  const reasons = Object.entries(dropped.rl).map(([reason, n]) => `${n} rows: ${reason}`);
  return `none of its ${rows} rows makes a task (${reasons.join("; ")})`;
}
