import { readFile } from "node:fs/promises";
import type { Data } from "apache-arrow";
import { type FileMetaData, parquetMetadata, parquetReadObjects, parquetSchema } from "hyparquet";
import { InputError } from "../lib/errors.js";

/**
 * One row by column name. Lists are arrays, structs objects, absent values null, int64 numbers where 2⁵³ allows, else
 * bigints.
 */
export type Row = Record<string, unknown>;

export interface ParquetOptions {
  /** The columns to read; all of them must be there. Default: all that the file has. */
  readonly columns?: readonly string[];
  /** Whole row groups are decoded together until they have so many rows. Default 16384. */
  readonly batchRows?: number;
  /** Which reader; `auto` is parquet-wasm, and hyparquet for what parquet-wasm cannot do. */
  readonly engine?: "auto" | "parquet-wasm" | "hyparquet";
}

/**
 * Reads a parquet file into rows.
 * @throws InputError where the file is missing or damaged, or lacks a column.
 */
export async function readParquet(path: string, options: ParquetOptions = {}): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const batch of readParquetBatches(path, options)) for (const row of batch) rows.push(row);
  return rows;
}

/**
 * Reads a parquet file batch by batch, so that only the compressed file and one batch are in memory.
 *
 * parquet-wasm decodes and arrow-js-ffi takes the batches over. hyparquet reads instead where WebAssembly cannot be had
 * or the file uses what those two lack, but never what parquet-wasm finds damaged: hyparquet checks less and would
 * return garbled text. parquet-wasm's own stream is not used: an error inside it escapes as an uncaught exception and
 * the stream waits forever.
 *
 * @throws InputError as `readParquet` does.
 */
export async function* readParquetBatches(path: string, options: ParquetOptions = {}): AsyncGenerator<Row[]> {
  const { engine = "auto", batchRows = 16384 } = options;
  const bytes = await readFileBytes(path);
  const { metadata, columns } = readFooter(bytes, options.columns, path);
  for (const batch of toBatches(metadata, batchRows)) {
    let rows: Row[] | undefined;
    try {
      if (engine !== "hyparquet") rows = await readWithWasm(bytes, columns, batch, engine === "auto");
      rows ??= await readWithHyparquet(bytes, columns, batch, metadata);
    } catch (error) {
      throw unreadable(path, error);
    }
    const promised = batch.rowEnd - batch.rowStart;
    if (rows.length !== promised) throw unreadable(path, `${rows.length} rows where ${promised} are promised`);
    yield rows;
  }
}

/** Row groups that are decoded together, and the rows of the file that they hold. */
interface Batch {
  readonly rowGroups: number[];
  readonly rowStart: number;
  rowEnd: number;
}

/** parquet-wasm copies the whole file for each call, so that one call for each of many small groups would be slow. */
function toBatches({ row_groups }: FileMetaData, batchRows: number): Batch[] {
  const batches: Batch[] = [];
  let rowStart = 0;
  for (const [group, { num_rows }] of row_groups.entries()) {
    let batch = batches.at(-1);
    if (!batch || batch.rowEnd - batch.rowStart >= batchRows) {
      batch = { rowGroups: [], rowStart, rowEnd: rowStart };
      batches.push(batch);
    }
    batch.rowGroups.push(group);
    rowStart = batch.rowEnd += Number(num_rows);
  }
  return batches;
}

/** @throws InputError where there is no such file. */
export async function readFileBytes(path: string): Promise<ArrayBuffer> {
  try {
    const { buffer, byteOffset, byteLength } = await readFile(path);
    return byteLength === buffer.byteLength ? buffer : buffer.slice(byteOffset, byteOffset + byteLength);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const why = { ENOENT: "no such file", ENOTDIR: "no such file", EISDIR: "is a folder", EACCES: "may not be read" };
    const known = why[code as keyof typeof why];
    throw known ? new InputError(`${path}: ${known}. Give the path of a parquet file.`) : error;
  }
}

function readFooter(bytes: ArrayBuffer, wanted: readonly string[] | undefined, path: string) {
  let metadata: FileMetaData;
  let present: string[];
  try {
    // Its search for GeoParquet columns never ends where a damaged schema has a negative number of children.
    metadata = parquetMetadata(bytes, { geoparquet: false });
    present = parquetSchema(metadata).children.map(({ element }) => element.name);
    const rows = metadata.row_groups.reduce((sum, { num_rows }) => sum + num_rows, 0n);
    if (rows !== metadata.num_rows) throw new Error(`${rows} rows where ${metadata.num_rows} are promised`);
  } catch (error) {
    throw unreadable(path, error);
  }
  const columns = [...(wanted ?? present)];
  const missing = columns.filter((column) => !present.includes(column));
  if (missing.length) {
    const lacks = `${path}: has no column ${missing.join(", ")}; it has ${present.join(", ")}`;
    throw new InputError(`${lacks}. Choose a file with the columns ${columns.join(", ")}.`);
  }
  return { metadata, columns };
}

/** Undefined where hyparquet shall try: without WebAssembly, or for a type, codec or encoding that is not supported. */
async function readWithWasm(bytes: ArrayBuffer, columns: string[], { rowGroups }: Batch, mayDecline: boolean) {
  try {
    const { readParquet: decode, wasmMemory } = await import("parquet-wasm");
    const { parseRecordBatch } = await import("arrow-js-ffi");
    const arrow = await import("apache-arrow");
    // Its option `columns` is not passed: this version decodes them all the same.
    const ffi = decode(new Uint8Array(bytes), { rowGroups }).intoFFI();
    const rows: Row[] = [];
    // Copies (`true`): views of wasm memory read null, silently, once that memory grows.
    for (const address of ffi.arrayAddrs()) {
      const batch = parseRecordBatch(wasmMemory().buffer, address, ffi.schemaAddr(), true);
      const values = columns.map((name) => valuesOf(batch.getChild(name)!.data[0], arrow));
      for (let i = 0; i < batch.numRows; i++) {
        rows.push(Object.fromEntries(columns.map((name, c) => [name, values[c][i]])));
      }
    }
    ffi.free();
    return rows;
  } catch (error) {
    if (mayDecline && !tellsDamage(error)) return undefined;
    throw error;
  }
}

/**
 * parquet-wasm throws errors in the words of its Rust crates; a panic, or an error from elsewhere, says nothing about
 * the file.
 */
function tellsDamage(error: unknown): boolean {
  const message = error instanceof Error ? error.message : String(error);
  const isFromParquet = /^(Parquet|Arrow|External|EOF)\b/.test(message);
  return isFromParquet && !/NYI|not (yet )?(supported|implemented)|unsupported|Disabled feature/i.test(message);
}

/**
 * The values of an Arrow array. Children of structs and lists are decoded once each: faster than Arrow's row objects.
 */
function valuesOf(data: Data, arrow: typeof import("apache-arrow")): unknown[] {
  const { type, length, children } = data;
  // arrow-js-ffi applies a sliced array's offset to some buffers only.
  if (data.offset !== 0) throw new Error("sliced Arrow arrays are not supported");
  const collect = (valueAt: (i: number) => unknown) =>
    Array.from({ length }, (_, i) => (data.getValid(i) ? valueAt(i) : null));

  if (arrow.DataType.isStruct(type)) {
    const fields = type.children.map(({ name }, i) => [name, valuesOf(children[i], arrow)] as const);
    return collect((i) => Object.fromEntries(fields.map(([name, values]) => [name, values[i]])));
  }
  if (arrow.DataType.isList(type)) {
    const items = valuesOf(children[0], arrow);
    const offsets: Int32Array = data.valueOffsets;
    return collect((i) => items.slice(offsets[i], offsets[i + 1]));
  }
  if (children.length || data.dictionary) throw new Error(`Arrow type ${type} is not supported`);
  const scalars = new arrow.Vector([data]);
  return collect((i) => normalise(scalars.get(i)));
}

async function readWithHyparquet(file: ArrayBuffer, columns: string[], batch: Batch, metadata: FileMetaData) {
  const { rowStart, rowEnd } = batch;
  const rows = await parquetReadObjects({ file, metadata, columns, rowStart, rowEnd, utf8: false });
  return rows.map((row) => normalise(row) as Row);
}

/** The same JavaScript values from either reader. */
function normalise(value: unknown): unknown {
  if (value === undefined) return null;
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (value instanceof Date) return value.getTime();
  if (Array.isArray(value)) return value.map(normalise);
  if (value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, normalise(item)]));
  }
  return value;
}

function unreadable(path: string, why: unknown): InputError {
  const message = (why instanceof Error ? why.message : String(why)).split("\n")[0];
  return new InputError(`${path}: cannot be read as parquet (${message}). Download or copy it again.`);
}
