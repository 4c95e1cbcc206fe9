import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tableFromIPC } from "apache-arrow";
import test from "ava";
import fc from "fast-check";
import { readParquet as readWasm } from "parquet-wasm";
import { type Columns, type ColumnType, inferType, MESSAGES } from "../../data/columnType.js";
import { type Row, readParquet } from "../../data/parquet.js";
import { parquetColumns, writeParquet } from "../../data/parquetWriter.js";
import { InputError } from "../../lib/errors.js";
import { fixture } from "../support.js";
import { temporaryFolder } from "../temporary.js";

/** The rows as apache-arrow has them, as plain JSON; numbers of 64 bits are strings. */
function readArrow(path: string): unknown {
  const table = tableFromIPC(readWasm(new Uint8Array(readFileSync(path))).intoIPCStream());
  return plain(table.toArray());
}

function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (_, each) => (typeof each === "bigint" ? String(each) : each)));
}

const columns: Columns = {
  prompt: MESSAGES,
  conv_id: "int64",
  score: "double",
  ok: "boolean",
  sessions: { list: MESSAGES },
  info: { struct: { tags: { list: "string" }, deep: { struct: { n: "int64" } } } },
};
const rows: Row[] = [
  {
    prompt: [{ content: "喉咙痛 🌡️", role: "user" }],
    conv_id: 9007199254740993n,
    score: 1,
    ok: true,
    sessions: [[{ content: "", role: "user" }], []],
    info: { tags: ["a", null], deep: { n: -1 } },
  },
  { prompt: [], conv_id: null, score: Number.NaN, ok: false, sessions: null, info: { tags: null, deep: null } },
  { prompt: [{ content: null, role: "user" }], conv_id: 7, score: 0.5, ok: null, sessions: [null], info: null },
];

test("what is written is read back alike by parquet-wasm, hyparquet and apache-arrow", async (t) => {
  const path = join(temporaryFolder(t), "new", "a.parquet");
  await writeParquet(path, rows, columns);
  for (const engine of ["parquet-wasm", "hyparquet"] as const) t.deepEqual(await readParquet(path, { engine }), rows);
  const text = (each: Row) => ({ ...each, conv_id: each.conv_id === null ? null : String(each.conv_id) });
  const nested = (each: Row) => ({
    ...text(each),
    info: each.info && (each === rows[0] ? { ...each.info, deep: { n: "-1" } } : each.info),
  });
  t.deepEqual(readArrow(path), plain(rows.map(nested)));
  t.deepEqual(await parquetColumns(path), columns);
  t.deepEqual(readdirSync(join(path, "..")), ["a.parquet"]);
});

test("the same rows give the same bytes, also where there are none", async (t) => {
  const folder = temporaryFolder(t);
  for (const [name, some] of [
    ["a", rows],
    ["b", []],
  ] as const) {
    for (const copy of [1, 2]) await writeParquet(join(folder, name + copy), some, columns);
    t.deepEqual(readFileSync(join(folder, `${name}1`)), readFileSync(join(folder, `${name}2`)));
    t.is((await readParquet(join(folder, `${name}1`))).length, some.length);
  }
});

test("any values of any type survive", async (t) => {
  const path = join(temporaryFolder(t), "a.parquet");
  const { type } = fc.letrec<{ type: ColumnType }>((tie) => ({
    type: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      fc.constantFrom<ColumnType>("boolean", "int64", "double", "string", "timestamp"),
      tie("type").map((list) => ({ list })),
      fc.dictionary(fc.constantFrom("a", "b", "1"), tie("type"), { minKeys: 1 }).map((struct) => ({ struct })),
    ),
  }));
  const anyOf = (each: ColumnType): fc.Arbitrary<unknown> => {
    if (typeof each === "object") {
      const inside: fc.Arbitrary<unknown> =
        "list" in each
          ? fc.array(anyOf(each.list), { maxLength: 4 })
          : fc.record(Object.fromEntries(Object.entries(each.struct).map(([name, of]) => [name, anyOf(of)])), {
              noNullPrototype: true,
            });
      return fc.option(inside);
    }
    const scalars = {
      boolean: fc.boolean(),
      int64: fc.maxSafeInteger(),
      double: fc.double({ noNaN: true }).filter((x) => !Object.is(x, -0)),
      string: fc.string({ unit: "grapheme" }),
      timestamp: fc.integer({ min: 0, max: 4e12 }),
    };
    return fc.option(scalars[each] as fc.Arbitrary<unknown>);
  };
  const some = type.chain((each) => fc.tuple(fc.constant(each), fc.array(anyOf(each), { maxLength: 8 })));
  await fc.assert(
    fc.asyncProperty(some, async ([each, values]) => {
      const written = values.map((value) => ({ value }));
      await writeParquet(path, written, { value: each });
      for (const engine of ["parquet-wasm", "hyparquet"] as const)
        t.deepEqual(await readParquet(path, { engine }), written);
    }),
    { numRuns: 150 },
  );
});

test("a file that cannot be written is said so, and the old one stays", async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "file"), "");
  await t.throwsAsync(writeParquet(join(folder, "file", "a.parquet"), rows, columns), {
    instanceOf: InputError,
    message: /cannot be written .* make room or choose another folder/,
  });
  mkdirSync(join(folder, "a.parquet"));
  await t.throwsAsync(writeParquet(join(folder, "a.parquet"), rows, columns), { instanceOf: InputError });
  t.deepEqual(readdirSync(folder).sort(), ["a.parquet", "file"], "nothing half written is left");
  t.false(existsSync(join(folder, "file", "a.parquet")));
});

test("inferType finds the narrowest type, and keeps a wider one that the file declares", (t) => {
  for (const [values, type, declared] of [
    [[1, null, 2], "int64"],
    [[1, 0.5], "double"],
    [[1, 2], "double", "double"],
    [[1000], "timestamp", "timestamp"],
    [[null, undefined], "string"],
    [[null], { list: "int64" }, { list: "int64" }],
    [[[], [[1], [0.5]]], { list: { list: "double" } }],
    [[{ a: 1 }, { b: "x" }, null], { struct: { a: "int64", b: "string" } }],
    [[{ a: 1 }], { struct: { a: "double", c: "string" } }, { struct: { a: "double", c: "string" } }],
    [["x"], "string", "int64"],
  ] as readonly [unknown[], ColumnType, ColumnType?][]) {
    t.deepEqual(inferType(values, "column", declared), type, JSON.stringify(values));
  }
  for (const [values, message] of [
    [[1, "x"], /^rewards: holds int64 and string values; make them of one type$/],
    [[{ a: [1] }, { a: ["x"] }], /^rewards\.a\[\]: /],
    [[[1], { a: 1 }], /list and struct/],
    [[{}], /objects without a field/],
  ] as const) {
    t.throws(() => inferType(values, "rewards"), { instanceOf: InputError, message });
  }
});

test("the types of a file's columns: those of the published schemas", async (t) => {
  const { sessions, single_turn_metadata, ...rest } = await parquetColumns(
    fixture("data", "collab-code-large.parquet"),
  );
  const session = {
    struct: {
      average_score: "double",
      forward_chat: MESSAGES,
      interactivity: { struct: { score: "double", thought: "string" } },
    },
  };
  t.deepEqual(sessions, { struct: { "0": session, "1": session } } as unknown as ColumnType);
  t.deepEqual([rest.conv_id, rest.score, rest.turn_id], ["int64", "double", "int64"]);
  await t.throwsAsync(parquetColumns(fixture("data", "medical.json")), { instanceOf: InputError, message: /Download/ });
});
