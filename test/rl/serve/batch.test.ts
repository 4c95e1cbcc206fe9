import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { planBatch, runBatch } from "../../../rl/serve/batch.js";
import type { LineRecord } from "../../../rl/serve/batchLine.js";
import { temporaryFolder } from "../../temporary.js";
import { babblingEngine } from "./support.js";

const quiet = { write: () => true };
const settings = { sampling: { temperature: 1 }, maxTokens: 8, stream: quiet };
const SEED = 5;

interface Files {
  readonly input: string;
  readonly output: string;
  readonly records: () => LineRecord[];
}

/** An input of these lines; text stands for itself, everything else for its JSON. */
function files(t: ExecutionContext, lines: readonly unknown[]): Files {
  const folder = temporaryFolder(t);
  const [input, output] = [join(folder, "in.jsonl"), join(folder, "out.jsonl")];
  writeFileSync(input, lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n"));
  const records = () =>
    readFileSync(output, "utf8")
      .split(/\n(?!$)/)
      .map((line) => JSON.parse(line));
  return { input, output, records };
}

const run = async (t: ExecutionContext, { input, output }: Files, { resume = false, maxBatch = 4, seed = SEED } = {}) =>
  runBatch(await babblingEngine(t, { maxBatch }), await planBatch({ input, output, resume, seed }), settings);

test("records come in the order of the input, whatever takes how long", async (t) => {
  const lines = Array.from({ length: 20 }, (_, i) => ({
    id: `line ${i}`,
    prompt: "größe",
    max_tokens: i % 3 === 0 ? 40 : 1 + (i % 5),
  }));
  const batch = files(t, lines);
  t.is(await run(t, batch), 0);
  const records = batch.records();
  t.deepEqual(
    records.map(({ id, line }) => [id, line]),
    lines.map(({ id }, i) => [id, i + 1]),
  );
  for (const record of records) {
    t.true("choices" in record && record.usage.completion_tokens <= 40 && record.choices.length === 1);
  }
});

test("a line's answers do not depend on the others: with its seed it gives them alone", async (t) => {
  const messages = [{ role: "user", content: "hello" }];
  const many = files(t, [{ prompt: "a" }, { messages, n: 3, temperature: 1.5 }, { prompt: "b" }]);
  await run(t, many);
  const second = many.records()[1];
  t.true("seed" in second && new Set(second.choices.map(({ text }) => text)).size === 3);
  const { seed } = second as { seed: number };
  const alone = files(t, [{ messages, n: 3, temperature: 1.5, seed }]);
  await run(t, alone, { maxBatch: 1 });
  t.deepEqual({ ...alone.records()[0], line: 2 }, second);
});

test("a bad line is a record that says what is wrong where; the rest is done", async (t) => {
  const batch = files(t, [
    "{",
    { prompt: "ok" },
    "",
    { id: 7 },
    { id: "x", prompt: "a", messages: [] },
    { id: 8, prompt: 1 },
    { prompt: "a", max_token: 3 },
    { prompt: "a", max_tokens: 1000 },
    { prompt: "a", n: 99 },
    { messages: [{ role: "tool", content: "a" }] },
    "[1]",
    "null",
    { prompt: "ok\u2028still" },
  ]);
  t.is(await run(t, batch), 10);
  const records = batch.records();
  const errors = Object.fromEntries(records.map((record) => [record.line, "error" in record ? record.error : ""]));
  const expected: Record<number, RegExp> = {
    1: /^line 1: not JSON/,
    2: /^$/,
    4: /^line 4: needs one of "prompt" and "messages"/,
    5: /^line 5: needs one of "prompt" and "messages"/,
    6: /^line 6: prompt: .*string/,
    7: /^line 7: .*max_token/,
    8: /^line 8: 1 tokens of prompt and 1000 more exceed the model's 256/,
    9: /^line 9: n: /,
    10: /^line 10: messages\.0\.role: /,
    11: /^line 11: needs one of/,
    12: /^line 12: needs one of/,
    13: /^$/,
  };
  t.deepEqual(Object.keys(errors), Object.keys(expected));
  for (const [line, pattern] of Object.entries(expected)) t.regex(errors[Number(line)], pattern);
  t.deepEqual(
    records.flatMap(({ id }) => id ?? []),
    [7, "x", 8],
  );
});

test("an output that is there is not overwritten; with resume only what is missing is done", async (t) => {
  const lines = Array.from({ length: 9 }, (_, i) => ({ id: i, prompt: `number ${i}` }));
  const whole = files(t, lines);
  await run(t, whole);
  await t.throwsAsync(run(t, whole), { name: "InputError", message: /is there already; .*--resume/ });

  const text = readFileSync(whole.output, "utf8");
  const cut = text.split("\n").slice(0, 4).join("\n") + '\n{"line":5,"id":4,"ch'; // As a killed process leaves it.
  writeFileSync(whole.output, cut);
  t.is(await run(t, whole, { resume: true }), 0);
  t.is(readFileSync(whole.output, "utf8"), text);
  t.is(await run(t, whole, { resume: true }), 0);
  t.is(readFileSync(whole.output, "utf8"), text);
});

test("errors of before a resume still count", async (t) => {
  const batch = files(t, ["{", { prompt: "a" }]);
  t.is(await run(t, batch), 1);
  appendFileSync(batch.input, `\n${JSON.stringify({ prompt: "b" })}`);
  t.is(await run(t, batch, { resume: true }), 1);
  t.is(batch.records().length, 3);
});

test("an output of another input is not gone on with", async (t) => {
  const batch = files(t, [{ prompt: "a" }]);
  writeFileSync(batch.output, '{"step":1}\n{"step":2}\n');
  await t.throwsAsync(run(t, batch, { resume: true }), { name: "InputError", message: /is no output of/ });
});

test("what was begun with one seed is not gone on with another; lines that give their own do not mind", async (t) => {
  const batch = files(t, ["{", { prompt: "a", seed: 3 }, { prompt: "b" }]);
  await run(t, batch);
  const text = readFileSync(batch.output, "utf8");
  await t.throwsAsync(run(t, batch, { resume: true, seed: 6 }), { name: "InputError", message: /another --seed/ });
  t.is(readFileSync(batch.output, "utf8"), text);
  t.is(await run(t, batch, { resume: true }), 1);
  const own = files(t, [{ prompt: "a", seed: 3 }]);
  await run(t, own);
  t.is(await run(t, own, { resume: true, seed: 6 }), 0);
});

test("an input that is not there leaves no output", async (t) => {
  const batch = { ...files(t, []), input: "nowhere.jsonl" };
  await t.throwsAsync(run(t, batch), { name: "InputError", message: /nowhere\.jsonl: cannot be read/ });
  t.false(existsSync(batch.output));
});

test("no more lines are in flight than the batch holds", async (t) => {
  const engine = await babblingEngine(t, { maxBatch: 3 });
  let [open, most] = [0, 0];
  const draw = engine.draw.bind(engine);
  engine.draw = async (request) => {
    most = Math.max(most, ++open);
    return draw(request).finally(() => open--);
  };
  const batch = files(t, Array(12).fill({ prompt: "a" }));
  await runBatch(engine, await planBatch({ ...batch, resume: false, seed: SEED }), settings);
  t.is(most, 3);
});

test("on a terminal a live line says how far it is", async (t) => {
  const engine = await babblingEngine(t);
  let shown = "";
  const stream = { isTTY: true, columns: 80, write: (text: string) => (shown += text) };
  const batch = files(t, Array(3).fill({ prompt: "a" }));
  await runBatch(engine, await planBatch({ ...batch, resume: false, seed: SEED }), { ...settings, stream });
  t.regex(shown, /\rline 3\/3 {2}[\d,]+ tok\/s {2}0:00 left/);
});
