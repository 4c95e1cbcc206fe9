import { appendFileSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { InputError } from "../../../lib/errors.js";
import { openReplies, type ReplyRecord, replyKey } from "../../../rl/llm/replies.js";
import { temporaryFolder } from "../../temporary.js";

const record = (i: number, more: Partial<ReplyRecord> = {}): ReplyRecord => ({
  ...{ key: `key${i}`, role: "user", about: "test", text: `größe ${i}\n`.repeat(200), seconds: 1 },
  ...more,
});

test("replies come back from a file of many megabytes, after a torn line too", (t) => {
  const path = join(temporaryFolder(t), "replies.jsonl");
  const written = openReplies(path);
  for (let i = 0; i < 1000; i++) written.keep(record(i));
  t.is(written.get("key7"), record(7).text);
  written.close();
  const bytes = statSync(path).size;
  t.true(bytes > 2 ** 21);
  appendFileSync(path, '{"key": "torn');
  const read = openReplies(path);
  t.is(statSync(path).size, bytes);
  for (const i of [0, 1, 499, 999]) t.is(read.get(`key${i}`), record(i).text);
  t.is(read.get("torn"), undefined);
  read.keep(record(1000));
  t.is(read.get("key1000"), record(1000).text);
  read.close();
  t.is(readFileSync(path, "utf8").trim().split("\n").length, 1001);
});

test("a reply that could not be used is kept and never comes back; a later one of the same call counts", (t) => {
  const path = join(temporaryFolder(t), "replies.jsonl");
  const replies = openReplies(path);
  replies.keep(record(1, { fault: "unusable", reason: "no JSON" }));
  t.is(replies.get("key1"), undefined);
  replies.keep(record(1, { text: "good" }));
  t.is(replies.get("key1"), "good");
  replies.close();
});

test("a damaged line is named", (t) => {
  const path = join(temporaryFolder(t), "replies.jsonl");
  for (const line of ["no JSON", "null", '{"key": "k"}', '{"text": "t"}', "[]"]) {
    writeFileSync(path, `${line}\n`);
    t.throws(() => openReplies(path), {
      instanceOf: InputError,
      message: /replies\.jsonl: has a line that is no reply/,
    });
  }
});

test("a folder in the file's place is named", (t) => {
  t.throws(() => openReplies(temporaryFolder(t)), { instanceOf: InputError, message: /cannot be opened \(EISDIR/ });
});

test("a call's name tells model, messages, every setting, and the schema", (t) => {
  const messages = [{ role: "user", content: "a" }] as const;
  const sampling = { temperature: 0, maxTokens: 8, seed: 1 };
  const schema = { name: "x", schema: {} };
  const keys = [
    replyKey("m", { messages, sampling }),
    replyKey("n", { messages, sampling }),
    replyKey("m", { messages: [{ role: "user", content: "b" }], sampling }),
    replyKey("m", { messages: [{ role: "system", content: "a" }], sampling }),
    ...[{ temperature: 1 }, { maxTokens: 9 }, { seed: 2 }, { topP: 0.5 }].map((other) =>
      replyKey("m", { messages, sampling: { ...sampling, ...other } }),
    ),
    replyKey("m", { messages, sampling, schema }),
  ];
  t.is(new Set(keys).size, keys.length);
  t.is(replyKey("m", { messages, sampling }), keys[0]);
});
