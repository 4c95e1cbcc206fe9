import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { z } from "zod";
import { checkedRows, messageForm } from "../../data/checkedRows.js";
import type { Row } from "../../data/parquet.js";
import { dataFiles, readRowBatches } from "../../data/rows.js";
import { InputError } from "../../lib/errors.js";
import { fixture } from "../support.js";
import { temporaryFolder } from "../temporary.js";

async function readAll(path: string, columns?: string[]): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const batch of readRowBatches(path, columns)) rows.push(...batch);
  return rows;
}

function write(t: ExecutionContext, name: string, text: string): string {
  const path = join(temporaryFolder(t), name);
  writeFileSync(path, text);
  return path;
}

test("parquet, JSON and JSONL of the same rows are read alike", async (t) => {
  const rows = await readAll(fixture("data", "medical.parquet"));
  t.is(rows.length, 11);
  t.deepEqual(await readAll(fixture("data", "medical.json")), rows);
  const lines = rows.map((row) => JSON.stringify(row)).join("\r\n\n");
  for (const name of ["a.jsonl", "a.NDJSON"]) t.deepEqual(await readAll(write(t, name, `\ufeff${lines}`)), rows);
  const many = Array.from({ length: 3000 }, (_, i) => `{"i":${i}}\n`).join("");
  t.deepEqual(
    await readAll(write(t, "a.jsonl", many)),
    Array.from({ length: 3000 }, (_, i) => ({ i })),
  );
});

test("a damaged file is refused in one line that says where and what to do", async (t) => {
  for (const [name, text, message] of [
    ["a.json", "{", /a\.json: is not JSON \(.*\); mend it or download the file again$/],
    ["a.json", '{"a": 1}', /is no JSON array; give an array of rows, or a \.jsonl file/],
    ["a.json", "[1]", /row 0: is no JSON object/],
    ["a.jsonl", '{"a": 1}\n\n{"a": \n', /line 3: is not JSON/],
    ["a.jsonl", "[1]", /line 1: is no JSON object/],
    ["a.parquet", "PAR1", /cannot be read as parquet/],
    ["a.csv", "a,b", /neither \.parquet nor \.json nor \.jsonl/],
  ] as const) {
    const error = await t.throwsAsync(readAll(write(t, name, text)), { instanceOf: InputError, message });
    t.false(error.message.includes("\n"), error.message);
  }
  for (const name of ["a.json", "a.jsonl", "a.parquet"]) {
    await t.throwsAsync(readAll(join(temporaryFolder(t), name)), { instanceOf: InputError, message: /no such file/ });
    const folder = join(temporaryFolder(t), name);
    mkdirSync(folder);
    await t.throwsAsync(readAll(folder), { instanceOf: InputError }, `a folder called ${name}`);
  }
});

test("a folder stands for the data files in it, in the order of their names", async (t) => {
  const folder = temporaryFolder(t);
  mkdirSync(join(folder, "data"));
  for (const name of ["data/b.parquet", "data/a.jsonl", "README.md", "c.json"]) writeFileSync(join(folder, name), "");
  t.deepEqual(
    await dataFiles(folder),
    ["c.json", "data/a.jsonl", "data/b.parquet"].map((name) => join(folder, name)),
  );
  t.deepEqual(await dataFiles(join(folder, "c.json")), [join(folder, "c.json")]);
  await t.throwsAsync(dataFiles(join(folder, "nothing")), {
    instanceOf: InputError,
    message: /no such file or folder/,
  });
  await t.throwsAsync(dataFiles(temporaryFolder(t)), { instanceOf: InputError, message: /holds no \.parquet/ });
});

test("rows of a known form: the first row and field that will not do are named, with what to do", async (t) => {
  const path = join(temporaryFolder(t), "rows.jsonl");
  const form = z.object({ prompt: z.array(messageForm) });
  const read = async () => {
    const rows = [];
    for await (const row of checkedRows(path, form, "Choose another.")) rows.push(row);
    return rows;
  };
  const good = { prompt: [{ role: "user", content: "größe" }] };
  writeFileSync(path, `${JSON.stringify({ ...good, more: 1 })}\n${JSON.stringify(good)}\n`);
  t.deepEqual(await read(), [good, good]);
  writeFileSync(path, `${JSON.stringify(good)}\n{"prompt": [{"role": "bot", "content": ""}]}\n`);
  const message = /rows\.jsonl: row 1: prompt\.0\.role: .*\. Choose another\.$/;
  await t.throwsAsync(read, { instanceOf: InputError, message });
});
