import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { groupBy } from "./groupBy.js";
import { openJsonLines, readJsonLines } from "./jsonLines.js";

/** The transcripts file's name inside a run's folder. */
export const TRANSCRIPTS_FILE = "transcripts.jsonl";

/** One sampled token and its reward from the implicit process reward model. */
export interface TokenScore {
  readonly text: string;
  readonly score: number;
}

/** One message of a transcript; all but `role` and `content` is for assistant turns. */
export interface TranscriptMessage {
  readonly role: string;
  readonly content: string;
  /** Turn reward. */
  readonly reward?: number;
  readonly advantage?: number;
  /** Share of the outcome that normalised credit gives this turn, from 0 to 1. */
  readonly weight?: number;
  /** Whether this is the truly useful turn, where the environment knows. */
  readonly useful?: boolean;
  /** How the turn ended, a `StopReason`. */
  readonly stop?: string;
  readonly tokens?: readonly TokenScore[];
}

/** A conversation as people read it, with what every assistant turn earned. */
export interface Transcript {
  readonly step: number;
  /** Set apart from the training conversations under this name, such as "held-out". */
  readonly label?: string;
  readonly task: number;
  readonly sample: number;
  /** Null when the conversation failed. */
  readonly outcome: number | null;
  readonly metrics: Readonly<Record<string, number>>;
  /** How the conversation ended, a `StopReason`. */
  readonly stop: string;
  readonly messages: readonly TranscriptMessage[];
}

/** The transcripts of a run: all of them in the file, a bounded selection in memory. */
export interface Transcripts {
  /** At most 2·`limit` transcripts of the run so far, evenly spread by `spreadTranscripts`. */
  readonly kept: readonly Transcript[];
  append(transcripts: readonly Transcript[]): void;
  close(): void;
}

/** Opens the transcripts of the run in `directory`, which is created if need be. */
export function openTranscripts(directory: string, limit = 200): Transcripts {
  mkdirSync(directory, { recursive: true });
  const file = openJsonLines(join(directory, TRANSCRIPTS_FILE), omitNonFinite);
  let kept: Transcript[] = [];
  const keep = (transcripts: readonly Transcript[]) => {
    for (const transcript of transcripts) addTranscript(kept, transcript);
    if (kept.length > 2 * limit) kept = spreadTranscripts(kept, limit);
  };
  keep(readTranscripts(directory));
  return {
    get kept() {
      return kept;
    },
    append(transcripts) {
      file.append(transcripts);
      keep(transcripts);
    },
    close: () => file.close(),
  };
}

/**
 * The transcripts of the run in `directory`: a torn last line is ignored, and where a resumed run went back to an
 * earlier step the later ones stand. Empty if there is no file.
 * @throws InputError when a complete line is not JSON.
 */
export function readTranscripts(directory: string): Transcript[] {
  const transcripts: Transcript[] = [];
  for (const transcript of readJsonLines<Transcript>(join(directory, TRANSCRIPTS_FILE))) {
    addTranscript(transcripts, transcript);
  }
  return transcripts;
}

/** Appends; a step back in time means that the run was resumed there, and takes away what it repeats. */
function addTranscript(transcripts: Transcript[], added: Transcript): void {
  if (transcripts.length > 0 && added.step < transcripts[transcripts.length - 1].step) {
    while (transcripts.length > 0 && transcripts[transcripts.length - 1].step >= added.step) transcripts.pop();
  }
  transcripts.push(added);
}

/** JSON replacer: a number that is not finite is left out, an outcome becomes null. */
export function omitNonFinite(key: string, value: unknown): unknown {
  if (typeof value !== "number" || Number.isFinite(value)) return value;
  return key === "outcome" ? null : undefined;
}

/**
 * At most `limit` transcripts, in order of step. Every label has an equal part of the limit; within a label the first
 * and the last step stay and those between that come nearest to even spacing, each with its first conversations.
 */
export function spreadTranscripts(transcripts: readonly Transcript[], limit: number): Transcript[] {
  const ordered = [...transcripts].sort((a, b) => a.step - b.step);
  if (ordered.length <= limit) return ordered;
  const labels = [...groupBy(ordered, (transcript) => transcript.label).values()];
  const quota = Math.max(1, Math.floor(limit / labels.length));
  return labels
    .flatMap((label) => spreadSteps(label, quota))
    .sort((a, b) => a.step - b.step)
    .slice(0, limit);
}

function spreadSteps(transcripts: readonly Transcript[], quota: number): Transcript[] {
  if (transcripts.length <= quota) return [...transcripts];
  const groups = [...groupBy(transcripts, (transcript) => transcript.step).values()];
  const perStep = Math.ceil(transcripts.length / groups.length);
  const steps = evenlySpaced(groups, Math.max(Math.min(2, quota), Math.floor(quota / perStep)));
  return steps.flatMap((group) => group.slice(0, Math.floor(quota / steps.length)));
}

/** At most `count` of the groups, ordered by step: the last, the first, and the nearest to each even distance. */
function evenlySpaced(groups: readonly Transcript[][], count: number): Transcript[][] {
  if (groups.length <= count) return [...groups];
  const first = groups[0][0].step;
  const last = groups[groups.length - 1][0].step;
  const chosen = new Set<Transcript[]>();
  let next = 0;
  for (let i = 0; i < count; i++) {
    const target = count === 1 ? last : first + (i * (last - first)) / (count - 1);
    const distance = (index: number) => Math.abs(groups[index][0].step - target);
    while (next + 1 < groups.length && distance(next + 1) <= distance(next)) next += 1;
    chosen.add(groups[next]);
  }
  return [...chosen];
}
