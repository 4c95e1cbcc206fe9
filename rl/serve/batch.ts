import { existsSync } from "node:fs";
import { InputError, randomStream } from "../../lib/index.js";
import { openJsonLines, readJsonLines } from "../report/jsonLines.js";
import { type LiveStream, openLiveLine } from "../report/liveLine.js";
import { answerLine, type LineDefaults, type LineRecord } from "./batchLine.js";
import type { Engine } from "./engine.js";
import { countInputLines, type InputLine, inputLines } from "./inputLines.js";

export interface BatchFiles {
  readonly input: string;
  readonly output: string;
  /** Whether lines that the output has already are left out, instead of the output having to be new. */
  readonly resume: boolean;
  /** The root of the lines' seeds. */
  readonly seed: number;
}

/** What is to be done, and what was done before. */
export interface BatchPlan extends BatchFiles {
  /** Lines of input that are not blank. */
  readonly total: number;
  /** Records that the output has. */
  readonly done: number;
  /** Those of them that are errors. */
  readonly failed: number;
  /** The last line of input that the output has; 0 for none. */
  readonly lastLine: number;
}

/** The seed of a line that gives none. */
function seedOf(line: number, root: number): number {
  return randomStream(root, line).int(2 ** 32);
}

function givesSeed(text: string): boolean {
  try {
    return JSON.parse(text).seed !== undefined;
  } catch {
    // The input is another than the records were made of; its line will say what is wrong with it.
    return true;
  }
}

/** Whether a record of a line that gives no seed has another than the line would get. */
async function isOfAnotherSeed(records: readonly LineRecord[], { input, seed }: BatchFiles): Promise<boolean> {
  const drawn = new Map(records.flatMap((record) => ("seed" in record ? [[record.line, record.seed]] : [])));
  if (drawn.size === 0) return false;
  for await (const { number, text } of inputLines(input)) {
    const recorded = drawn.get(number);
    if (recorded !== undefined && !givesSeed(text)) return recorded !== seedOf(number, seed);
  }
  return false;
}

/** @throws InputError where the input cannot be read, or the output is there and not to be gone on with. */
export async function planBatch(files: BatchFiles): Promise<BatchPlan> {
  const { input, output, resume } = files;
  const total = await countInputLines(input);
  if (existsSync(output) && !resume) {
    throw new InputError(`${output}: is there already; remove it, or go on with it with --resume`);
  }
  const records = readJsonLines<LineRecord>(output);
  const lastLine = records.at(-1)?.line ?? 0;
  if (!Number.isInteger(lastLine) || records.length > total) {
    throw new InputError(`${output}: is no output of ${input}; give another, or none of --resume`);
  }
  if (await isOfAnotherSeed(records, files)) {
    throw new InputError(`${output}: was begun with another --seed; give that one, or another --output`);
  }
  return {
    ...files,
    total,
    done: records.length,
    failed: records.filter((record) => "error" in record).length,
    lastLine,
  };
}

/**
 * Answers the lines of a file, many at once, into another: a record a line, in the order of the input. A record is
 * written when it and all before it are there; a process that is killed leaves whole lines.
 * @returns how many of all records are errors
 */
export async function runBatch(
  engine: Engine,
  plan: BatchPlan,
  { stream, ...defaults }: LineDefaults & { readonly stream?: LiveStream },
): Promise<number> {
  const output = openOutput(plan.output);
  const progress = openLiveLine({ steps: plan.total, done: plan.done, stream });
  const started = performance.now();
  let { done, failed } = plan;
  /** Records that wait for an earlier one, by their place. */
  const early = new Map<number, LineRecord>();

  function write(place: number, record: LineRecord): void {
    early.set(place, record);
    for (let next = early.get(done); next; next = early.get(done)) {
      output.append([next]);
      early.delete(done++);
      if ("error" in next) failed++;
    }
    const tokensPerSecond = (1000 * engine.drawn) / (performance.now() - started);
    progress.update({ unit: "line", step: done, values: {}, tokensPerSecond });
  }

  const lines = numbered(inputLines(plan.input), plan);
  async function work(): Promise<void> {
    for (let next = await lines.next(); !next.done; next = await lines.next()) {
      const { place, line } = next.value;
      const seed = seedOf(line.number, plan.seed);
      write(place, await answerLine(engine, line.text, { line: line.number, seed, ...defaults }));
    }
  }

  try {
    await Promise.all(Array.from({ length: engine.maxBatch }, work));
  } finally {
    progress.end();
    output.close();
  }
  return failed;
}

/** Lines that are still to be answered, with their places in the output. */
async function* numbered(lines: AsyncIterable<InputLine>, { lastLine, done }: BatchPlan) {
  let place = done;
  for await (const line of lines) if (line.number > lastLine) yield { place: place++, line };
}

function openOutput(path: string): ReturnType<typeof openJsonLines> {
  try {
    return openJsonLines(path);
  } catch (error) {
    throw new InputError(
      `${path}: cannot be written (${(error as NodeJS.ErrnoException).code}); give a file in a folder that is there`,
    );
  }
}
