import { appendFileSync, closeSync, existsSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { InputError } from "../../lib/errors.js";

/**
 * Reads a file of one JSON value per line. Text after the last newline is the torn line of a killed process and is
 * ignored; a file that does not exist holds nothing.
 * @throws InputError when a complete line is not JSON.
 */
export function readJsonLines<T>(path: string): T[] {
  if (!existsSync(path)) return [];
  const bytes = readFileSync(path);
  const values: T[] = [];
  let start = 0;
  for (let number = 1; ; number++) {
    const end = bytes.indexOf(NEWLINE, start);
    if (end < 0) return values;
    const line = bytes.toString("utf8", start, end).trim();
    if (line !== "") values.push(parseLine<T>(line, path, number));
    start = end + 1;
  }
}

const NEWLINE = 0x0a;

function parseLine<T>(line: string, path: string, number: number): T {
  try {
    return JSON.parse(line) as T;
  } catch {
    throw new InputError(`${path}, line ${number}: not JSON; delete that line, or the file to start it afresh`);
  }
}

/** Serialises one value to one line; `undefined` is `JSON.stringify`'s own treatment. */
export type Replacer = (key: string, value: unknown) => unknown;

/** An open file to which lines are appended. */
export interface JsonLines {
  /** Writes all values at once; what a killed process leaves torn is at most the end. */
  append(values: readonly unknown[]): void;
  close(): void;
}

/** Opens a file for appending and first cuts off a torn last line, to which the next one would be glued. */
export function openJsonLines(path: string, replacer?: Replacer): JsonLines {
  const file = openSync(path, "a+");
  const bytes = readFileSync(path);
  ftruncateSync(file, bytes.lastIndexOf(NEWLINE) + 1);
  return {
    append(values) {
      if (values.length > 0)
        appendFileSync(file, values.map((value) => JSON.stringify(value, replacer) + "\n").join(""));
    },
    close: () => closeSync(file),
  };
}
