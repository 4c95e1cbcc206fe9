import { InputError } from "../lib/errors.js";

/** The type of a column or of what it holds; any value may also be null. Timestamps are milliseconds since 1970. */
export type ColumnType = "boolean" | "int64" | "double" | "string" | "timestamp" | ListType | StructType;
export interface ListType {
  readonly list: ColumnType;
}
export interface StructType {
  readonly struct: Readonly<Record<string, ColumnType>>;
}

/** Column names to types, in the file's order. */
export type Columns = Readonly<Record<string, ColumnType>>;

export const MESSAGES: ColumnType = { list: { struct: { content: "string", role: "string" } } };

/**
 * The narrowest type that holds all values: whole numbers are int64, numbers otherwise double, objects the union of
 * their fields, and what is nowhere more than null or an empty list is a string (or a list of them). Parts of `declared`
 * stand where the values do not contradict them, so that a file of whole scores keeps its doubles.
 * @throws InputError that names the place where two values have no type in common.
 */
export function inferType(values: Iterable<unknown>, at: string, declared?: ColumnType): ColumnType {
  const present = [...values].filter((value) => value !== null && value !== undefined);
  if (present.length === 0) return declared ?? "string";
  const kinds = new Set(present.map(kindOf));
  if (kinds.size === 2 && kinds.has("int64") && kinds.has("double")) kinds.delete("int64");
  if (kinds.size > 1) throw new InputError(`${at}: holds ${[...kinds].join(" and ")} values; make them of one type`);
  const [kind] = kinds;
  if (kind === "list") {
    const items = (present as unknown[][]).flat();
    return { list: inferType(items, `${at}[]`, isList(declared) ? declared.list : undefined) };
  }
  if (kind === "struct") {
    const known = isStruct(declared) ? declared.struct : {};
    const names = new Set([...Object.keys(known), ...present.flatMap((value) => Object.keys(value as object))]);
    if (names.size === 0) throw new InputError(`${at}: holds objects without a field; leave them out`);
    const fields = [...names].map((name) => {
      const inside = present.map((value) => (value as Record<string, unknown>)[name]);
      return [name, inferType(inside, `${at}.${name}`, known[name])] as const;
    });
    return { struct: Object.fromEntries(fields) };
  }
  const isWider = kind === "int64" && (declared === "double" || declared === "timestamp");
  return isWider ? declared : (kind as ColumnType);
}

export function isList(type: ColumnType | undefined): type is ListType {
  return typeof type === "object" && "list" in type;
}

export function isStruct(type: ColumnType | undefined): type is StructType {
  return typeof type === "object" && "struct" in type;
}

const KINDS: Readonly<Record<string, string>> = { boolean: "boolean", string: "string", bigint: "int64" };

function kindOf(value: unknown): string {
  if (typeof value === "number") return Number.isSafeInteger(value) ? "int64" : "double";
  if (Array.isArray(value)) return "list";
  const isPlain = typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype;
  return isPlain ? "struct" : (KINDS[typeof value] ?? "binary");
}
