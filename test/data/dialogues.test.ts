import { writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { readDialogueSplit } from "../../data/dialogues.js";
import { prepare } from "../../data/prepare.js";
import { InputError } from "../../lib/errors.js";
import { fixture } from "../support.js";
import { temporaryFolder } from "../temporary.js";

const medical = fixture("data", "medical.parquet");
const defaults = { heldOutShare: 0.3, reasoning: true };

test("MTMedDialog's file, and what was prepared of it, are the same dialogues", async (t) => {
  const output = temporaryFolder(t);
  await prepare("mtmeddialog", { input: medical, output, heldOut: 1 });
  const train = join(output, "sft_train.parquet");
  const prepared = await readDialogueSplit({ ...defaults, train, validation: join(output, "sft_validation.parquet") });
  t.deepEqual([prepared.rows, prepared.train.length, prepared.heldOut.length], [3, 3, 1]);
  const raw = await readDialogueSplit({ ...defaults, train: medical });
  t.deepEqual([raw.rows, raw.train.length, raw.heldOut.length], [11, 2, 2]);
  const byText = (a: string, b: string) => (a < b ? -1 : 1);
  const all = ({ train, heldOut }: typeof raw) =>
    [...train, ...heldOut].map((each) => JSON.stringify(each)).sort(byText);
  t.deepEqual(all(prepared), all(raw));

  const plain = await readDialogueSplit({ ...defaults, train, reasoning: false });
  t.deepEqual([plain.train.length, plain.heldOut.length], [2, 1]);
  t.false(JSON.stringify(plain).includes("<think>"));
  t.true(JSON.stringify(prepared).includes("<think>"));
});

test("a validation file's cases are taken out of training; a file of all of them, or of something else, is refused", async (t) => {
  const validation = fixture("data", "medical-val.parquet");
  const { train, heldOut } = await readDialogueSplit({ ...defaults, train: medical, validation });
  t.deepEqual([train.length, heldOut.length], [3, 1]);
  const folder = temporaryFolder(t);
  const file = (text: string, type = "jsonl") => {
    const path = join(folder, `${text.length}.${type}`);
    writeFileSync(path, text);
    return path;
  };
  for (const [options, message] of [
    [{ train: medical, validation: medical }, /holds all of/],
    [{ train: file("") }, /has no rows/],
    [{ train: file("[]", "json") }, /has no rows/],
    [
      { train: file('{"prompt": [{"role": "user", "content": "Hi"}]}') },
      /row 0: prompt: the last message must be the assistant's\. Make/,
    ],
    [{ train: file('{"text": "Hi"}') }, /row 0: prompt: .*Make the file by itpo data prepare/],
  ] as const) {
    await t.throwsAsync(readDialogueSplit({ ...defaults, ...options }), { instanceOf: InputError, message });
  }
});
