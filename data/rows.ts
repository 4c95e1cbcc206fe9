import { open, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { InputError } from "../lib/errors.js";
import { type Row, readParquetBatches } from "./parquet.js";

/** How the rows of a file are written, told by its name: `.parquet`, `.jsonl` or `.ndjson`, `.json` (an array). */
export type RowFormat = "parquet" | "jsonl" | "json";

/** @throws InputError where the name tells none. */
export function rowFormat(path: string): RowFormat {
  const format = formatOf(path);
  if (format) return format;
  throw new InputError(`${path}: is neither .parquet nor .json nor .jsonl; give a file of one of these`);
}

/**
 * The data files that a path stands for: itself, or those in the folder and its folders, in the order of their names.
 * @throws InputError where there is nothing.
 */
export async function dataFiles(path: string): Promise<string[]> {
  const found = await stat(path).catch(() => undefined);
  if (!found) throw new InputError(`${path}: no such file or folder; give a .parquet, .json or .jsonl file`);
  if (!found.isDirectory()) return [path];
  const names = (await readdir(path, { recursive: true })).filter((name) => formatOf(name)).sort();
  if (names.length === 0) throw new InputError(`${path}: holds no .parquet, .json or .jsonl file; give one that does`);
  return names.map((name) => join(path, name));
}

/**
 * The rows of a parquet, JSON or JSONL file, batch by batch.
 * @param columns for parquet, those to read; all of them must be there. Default: all.
 * @throws InputError where the file is missing or damaged, or (JSON) a row is no object.
 */
export async function* readRowBatches(path: string, columns?: readonly string[]): AsyncGenerator<Row[]> {
  const read = { parquet: () => readParquetBatches(path, { columns }), json: readJson, jsonl: readJsonLines };
  yield* read[rowFormat(path)](path);
}

async function* readJson(path: string): AsyncGenerator<Row[]> {
  const rows = parse(await readFile(path, "utf8").catch(cannotRead(path)), path);
  if (!Array.isArray(rows)) throw new InputError(`${path}: is no JSON array; give an array of rows, or a .jsonl file`);
  yield rows.map((row, i) => asRow(row, `${path}: row ${i}`));
}

async function* readJsonLines(path: string, batchRows = 1024): AsyncGenerator<Row[]> {
  const file = await open(path).catch(cannotRead(path));
  let batch: Row[] = [];
  let number = 0;
  try {
    for await (const line of file.readLines({ encoding: "utf8" })) {
      number++;
      if (line.trim() === "") continue;
      const at = `${path}: line ${number}`;
      batch.push(asRow(parse(line, at), at));
      if (batch.length >= batchRows) {
        yield batch;
        batch = [];
      }
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EISDIR") cannotRead(path)(error);
    throw error;
  }
  if (batch.length) yield batch;
}

function formatOf(path: string): RowFormat | undefined {
  const formats = { parquet: "parquet", jsonl: "jsonl", ndjson: "jsonl", json: "json" } as const;
  return formats[/\.(parquet|jsonl|ndjson|json)$/i.exec(path)?.[1].toLowerCase() as keyof typeof formats];
}

function parse(text: string, at: string): unknown {
  try {
    return JSON.parse(text.replace(/^\ufeff/, ""));
  } catch (error) {
    const why = (error as Error).message.split("\n")[0].replace(/\p{C}/gu, "?").slice(0, 120);
    throw new InputError(`${at}: is not JSON (${why}); mend it or download the file again`);
  }
}

function asRow(value: unknown, at: string): Row {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Row;
  throw new InputError(`${at}: is no JSON object; each row must be one, with a field for each column`);
}

function cannotRead(path: string): (error: unknown) => never {
  return (error) => {
    throw new InputError(`${path}: cannot be read (${(error as Error).message}); give a file that can`);
  };
}
