import type { DataType, Field, Schema } from "apache-arrow";
import { InputError } from "../lib/errors.js";
import { writeWhole } from "../lib/files.js";
import { type Columns, type ColumnType, isList, isStruct } from "./columnType.js";
import { type Row, readFileBytes } from "./parquet.js";

type Arrow = typeof import("apache-arrow");

/**
 * Writes rows as a parquet file, whole or not at all.
 * @throws InputError where the folder cannot be written to.
 */
export async function writeParquet(path: string, rows: readonly Row[], columns: Columns): Promise<void> {
  await writeWhole(path, await toParquet(rows, columns));
}

/**
 * Rows as the bytes of a parquet file (Snappy, Arrow's schema beside parquet's own). Every column may be null, as in files
 * that pandas and `datasets` write. The same rows give the same bytes.
 */
export async function toParquet(rows: readonly Row[], columns: Columns): Promise<Uint8Array> {
  const arrow = await import("apache-arrow");
  const wasm = await import("parquet-wasm");
  const fields = Object.entries(columns).map(([name, type]) => new arrow.Field(name, toArrow(arrow, type), true));
  const vectors = Object.entries(columns).map(([name, type]) => {
    const values = rows.map((row) => toValue(row[name], type));
    return [name, arrow.vectorFromArray(values, toArrow(arrow, type))] as const;
  });
  const table = new arrow.Table(new arrow.Schema(fields), Object.fromEntries(vectors));
  const properties = new wasm.WriterPropertiesBuilder().setCompression(wasm.Compression.SNAPPY).build();
  return wasm.writeParquet(wasm.Table.fromIPCStream(arrow.tableToIPC(table, "stream")), properties);
}

/**
 * The types of a parquet file's columns; those without a ColumnType (binary, decimals, …) are left out.
 * @throws InputError where the file is missing or damaged.
 */
export async function parquetColumns(path: string): Promise<Columns> {
  const arrow = await import("apache-arrow");
  const { readSchema } = await import("parquet-wasm");
  const bytes = new Uint8Array(await readFileBytes(path));
  let schema: Schema;
  try {
    schema = arrow.tableFromIPC(readSchema(bytes).intoIPCStream()).schema;
  } catch (error) {
    const why = String(error instanceof Error ? error.message : error).split("\n")[0];
    throw new InputError(`${path}: cannot be read as parquet (${why}). Download or copy it again.`);
  }
  return fieldsOf(arrow, schema.fields);
}

function fieldsOf(arrow: Arrow, fields: readonly Field[]): Record<string, ColumnType> {
  const types = fields.map(({ name, type }) => [name, fromArrow(arrow, type)] as const);
  return Object.fromEntries(types.filter((entry): entry is [string, ColumnType] => entry[1] !== undefined));
}

function fromArrow(arrow: Arrow, type: DataType): ColumnType | undefined {
  const { DataType } = arrow;
  if (DataType.isUtf8(type) || DataType.isLargeUtf8(type)) return "string";
  if (DataType.isInt(type)) return "int64";
  if (DataType.isFloat(type)) return "double";
  if (DataType.isBool(type)) return "boolean";
  if (DataType.isTimestamp(type)) return "timestamp";
  if (DataType.isStruct(type)) return { struct: fieldsOf(arrow, type.children) };
  const item = DataType.isList(type) ? fromArrow(arrow, type.children[0].type) : undefined;
  return item && { list: item };
}

function toArrow(arrow: Arrow, type: ColumnType): DataType {
  if (isList(type)) return new arrow.List(new arrow.Field("item", toArrow(arrow, type.list), true));
  if (isStruct(type)) {
    return new arrow.Struct(
      Object.entries(type.struct).map(([name, inside]) => new arrow.Field(name, toArrow(arrow, inside), true)),
    );
  }
  const make = {
    boolean: () => new arrow.Bool(),
    int64: () => new arrow.Int64(),
    double: () => new arrow.Float64(),
    string: () => new arrow.Utf8(),
    timestamp: () => new arrow.TimestampMillisecond(),
  };
  return make[type]();
}

/** The value as Arrow's builders take it: int64 as bigints, absent fields null. */
function toValue(value: unknown, type: ColumnType): unknown {
  if (value === null || value === undefined) return null;
  if (type === "int64") return BigInt(value as number | bigint);
  if (isList(type)) return (value as unknown[]).map((item) => toValue(item, type.list));
  if (!isStruct(type)) return value;
  const fields = Object.entries(type.struct);
  return Object.fromEntries(fields.map(([name, inside]) => [name, toValue((value as Row)[name], inside)]));
}
