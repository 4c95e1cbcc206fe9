import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import fc from "fast-check";
import { readParquet, readParquetBatches } from "../../data/parquet.js";
import { InputError } from "../../lib/errors.js";
import { fixture } from "../support.js";

const path = fixture("data", "medical.parquet");

let directory: string;
test.before(async () => {
  directory = await mkdtemp(join(tmpdir(), "parquet-"));
});
test.after.always(() => rm(directory, { recursive: true, force: true }));

for (const engine of ["auto", "parquet-wasm", "hyparquet"] as const) {
  test(`${engine} reads nested lists and structs, nulls and Unicode as they were written`, async (t) => {
    t.deepEqual(
      await readParquet(path, { engine }),
      JSON.parse(await readFile(fixture("data", "medical.json"), "utf8")),
    );
  });

  test(`${engine} reads the named columns only, in batches of whole row groups`, async (t) => {
    for (const [batchRows, sizes] of [
      [1, [5, 5, 1]],
      [6, [10, 1]],
      [undefined, [11]],
    ] as const) {
      const batches = [];
      for await (const batch of readParquetBatches(path, { engine, columns: ["extra_info"], batchRows }))
        batches.push(batch);
      t.deepEqual(
        batches.map(({ length }) => length),
        [...sizes],
      );
      t.deepEqual(
        batches.flat(),
        Array.from({ length: 11 }, (_, index) => ({ extra_info: { index } })),
      );
    }
  });
}

test("a missing column is named beside those that are there", async (t) => {
  await t.throwsAsync(readParquet(path, { columns: ["prompt", "completion", "conv_id"] }), {
    instanceOf: InputError,
    message: /no column completion, conv_id; it has data_source, prompt, reward_model, extra_info, response\. Choose/,
  });
});

test("a missing file, a folder, an empty file and one of another kind are refused", async (t) => {
  await t.throwsAsync(readParquet(join(directory, "missing")), { instanceOf: InputError, message: /no such file/ });
  await t.throwsAsync(readParquet(directory), { instanceOf: InputError, message: /is a folder/ });
  for (const content of ["", "a,b\n1,2\n", "PAR1 nothing else"]) {
    const other = join(directory, "other");
    await writeFile(other, content);
    await t.throwsAsync(readParquet(other), {
      instanceOf: InputError,
      message: /cannot be read as parquet \(.+\)\. Download/,
    });
  }
});

test("damaged text is refused, not handed to the reader that would pass it", async (t) => {
  const bytes = await readFile(path);
  bytes[bytes.indexOf("The left one.")] = 0xff;
  const damaged = join(directory, "damaged");
  await writeFile(damaged, bytes);
  await t.notThrowsAsync(readParquet(damaged, { engine: "hyparquet" }));
  await t.throwsAsync(readParquet(damaged), { instanceOf: InputError, message: /UTF-8/ });
});

test("any mutation of a file is read whole or refused with an InputError of one line", async (t) => {
  const valid = await readFile(path);
  const mutant = join(directory, "mutant");
  const change = fc.record({ fromEnd: fc.nat(valid.length - 1), byte: fc.nat(255) });
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(change, { minLength: 1, maxLength: 4 }),
      fc.option(fc.nat(valid.length), { freq: 4 }),
      async (changes, cut) => {
        const bytes = Buffer.from(valid);
        for (const { fromEnd, byte } of changes) bytes[bytes.length - 1 - fromEnd] = byte;
        await writeFile(mutant, cut === null ? bytes : bytes.subarray(0, cut));
        try {
          t.is((await readParquet(mutant)).length, 11);
        } catch (error) {
          refused++;
          if (!(error instanceof InputError) || error.message.includes("\n")) throw error;
        }
      },
    ),
    { numRuns: 300 },
  );
  t.true(refused > 50);
});
