import type { Message } from "../models/message.js";
import type { Columns } from "./columnType.js";
import type { Task } from "./tasks.js";

/** What a dataset's files hold, before it is split. */
export interface Source {
  readonly tasks: readonly Keyed<Task>[];
  /** Whole dialogues to fine-tune on, each ending with the assistant's turn. */
  readonly dialogues: readonly Keyed<readonly Message[]>[];
  /** For each row the keys that tie it to others: rows of one conversation, conversations about one problem. */
  readonly links: readonly (readonly string[])[];
  /** Keys that the validation files hold. */
  readonly validationKeys: ReadonlySet<string>;
  /** Types of the columns that the tasks' `info` keeps, where the files tell them. */
  readonly columns: Columns;
  /** Rows read, by file. */
  readonly read: Readonly<Record<string, number>>;
  readonly dropped: { readonly rl: Readonly<Record<string, number>>; readonly sft: Readonly<Record<string, number>> };
}

/** Something of a row, with one of the row's keys. */
export interface Keyed<T> {
  readonly key: string;
  readonly value: T;
}

export interface SourceOptions {
  /** Files in order; where rows repeat each other the first counts. */
  readonly files: readonly string[];
  /** Files whose conversations are held out, wherever else they stand. */
  readonly validationFiles?: readonly string[];
  readonly taskDesc: string;
  /** Keeps tasks that open alike but ask for different things; the reference implementation keeps the first alone. */
  readonly keepSharedOpenings?: boolean;
  readonly onRead?: (file: string, rows: number) => void;
}

/** Counts by reason. */
export function tally(): { readonly counts: Record<string, number>; add(reason: string, n?: number): void } {
  const counts: Record<string, number> = {};
  return {
    counts,
    add: (reason, n = 1) => {
      if (n > 0) counts[reason] = (counts[reason] ?? 0) + n;
    },
  };
}
