import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { InputError } from "../../lib/index.js";

/** A line that is not blank. */
export interface InputLine {
  /** From 1, blank lines counted. */
  readonly number: number;
  readonly text: string;
}

/** The lines of a file that are not blank; only line feeds end one, as U+2028 may stand in JSON. */
export async function* inputLines(path: string): AsyncGenerator<InputLine> {
  let number = 0;
  let rest = "";
  for await (const chunk of createReadStream(path, "utf8") as AsyncIterable<string>) {
    const lines = chunk.split("\n");
    lines[0] = rest + lines[0];
    rest = lines.pop()!;
    for (const text of lines) yield* asLine(++number, text);
  }
  yield* asLine(++number, rest);
}

function* asLine(number: number, line: string): Generator<InputLine> {
  const text = (number === 1 ? line.replace(/^\ufeff/, "") : line).trim();
  if (text !== "") yield { number, text };
}

/** How many there are. @throws InputError where the file cannot be read, or not twice. */
export async function countInputLines(path: string): Promise<number> {
  let count = 0;
  try {
    if (!(await stat(path)).isFile()) throw new InputError(`${path}: is no file; give one with a JSON object a line`);
    for await (const _ of inputLines(path)) count++;
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(
      `${path}: cannot be read (${(error as NodeJS.ErrnoException).code}); give a file of JSON lines`,
    );
  }
  return count;
}
