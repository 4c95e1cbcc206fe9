import test from "ava";
import fc from "fast-check";
import { extractJson, type Json, ReplyError } from "../../../rl/llm/extractJson.js";

test("TV-31: what the reference implementation reads, and what it refuses", (t) => {
  for (const [text, expected] of [
    ['noise {"thought": "x", "accuracy": 1} tail', { thought: "x", accuracy: 1 }],
    [`{'thought': 'it', "accuracy": "1"}`, { thought: "it", accuracy: 1 }],
    ['{"a": [1, 2,], "b": {"c": -1.5e2},}', { a: [1, 2], b: { c: -150 } }],
    ['{"a": """l1\nl2 "q" ok""", "b": 0}', { a: 'l1\nl2 "q" ok', b: 0 }],
    ['{"a": TRUE, "b": False, "c": null}', { a: true, b: false, c: null }],
  ] as const) {
    t.deepEqual(extractJson(text, { compat: true }) as unknown, expected, text);
  }
  for (const text of [
    '{"a": 1',
    "no json",
    '{"a" 1}',
    '{"a": 1} and {"b": 2}',
    '{"a": 1 "b": 2}',
    "{1: 2}",
    '{"a": 1-2}',
  ]) {
    t.throws(() => extractJson(text, { compat: true }), { instanceOf: ReplyError, message: /^the reply / }, text);
  }
});

test("strings: either quote, tripled quotes, raw line breaks, and the escapes that there are", (t) => {
  const read = (text: string) => (extractJson(`{"s": ${text}}`) as { s: Json }).s;
  t.is(read('"a\\n\\t\\r\\\\\\"\\\'"'), "a\n\t\r\\\"'");
  t.is(read('"\\u00e9\\b\\f\\/\\x"'), "é\b\f/x");
  t.is((extractJson('{"s": "\\u0041\\b"}', { compat: true }) as { s: Json }).s, "u0041b", "the reference's way");
  t.is(read("'a \"b\" c'"), 'a "b" c');
  t.is(read("'''it's\n'''"), "it's\n");
  t.is(read('"""a\\n"b"\n"""'), 'a\\n"b"\n', "no escapes in triple quotes");
});

test("what was quoted stays text; in the reference's way it becomes what it spells, by Python's rules", (t) => {
  const read = (text: string, compat: boolean) => (extractJson(`{"s": "${text}"}`, { compat }) as { s: Json }).s;
  for (const [text, value] of [
    ["1", 1],
    ["1_000", 1000],
    [" 7 ", 7],
    ["-1.5e2", -150],
    [".5", 0.5],
    ["1.", 1],
    ["TRUE", true],
    ["None", "None"],
    ["null", null],
    ["nan", "nan"],
    ["inf", "inf"],
    ["0x10", "0x10"],
    ["1__0", "1__0"],
    ["", ""],
  ] as const) {
    t.is(read(text, true), value, text);
    t.is(read(text, false), text);
  }
  t.deepEqual(extractJson('{"1_0": 1}', { compat: true }), { "10": 1 });
});

test("words: literals in any case, Python's None, and no other", (t) => {
  t.deepEqual(extractJson("{'a': True, 'b': None, 'c': nULL}"), { a: true, b: null, c: null });
  for (const text of ['{"a": None}', '{"a": yes}', '{"a": infinity}']) {
    t.throws(() => extractJson(text, { compat: true }), { instanceOf: ReplyError }, text);
  }
  t.throws(() => extractJson('{"a": truely}'), { instanceOf: ReplyError });
});

test("of equal keys the last counts, and no key reaches beyond its object", (t) => {
  t.deepEqual(extractJson('{"a": 1, "a": 2}'), { a: 2 });
  const parsed = extractJson('{"__proto__": {"accuracy": 1}}') as { accuracy?: number };
  t.is(parsed.accuracy, undefined);
});

test("what JSON.stringify writes is read back", (t) => {
  const json = fc.jsonValue().map((value) => JSON.parse(JSON.stringify({ value })) as Json);
  fc.assert(fc.property(json, (value) => t.deepEqual(extractJson(`So: ${JSON.stringify(value)}.`), value)));
});

test("100,000 replies: each is read or refused with a ReplyError, and none hangs", (t) => {
  const piece = fc.constantFrom(
    ...["{", "}", "[", "]", ":", ",", '"', "'", '"""', "'''", "\\", "\n", " ", "{{", "}}", "-", "1", "1e999", ".", "_"],
    ...["true", "NULL", '"a"', '"accuracy"', '{"thought": "x", "accuracy": 1}', "\u0000", "🌡️", "\ud800", "```json"],
  );
  const reply = fc.oneof(
    { weight: 4, arbitrary: fc.array(piece, { maxLength: 24 }).map((pieces) => pieces.join("")) },
    { weight: 1, arbitrary: fc.array(piece, { maxLength: 24 }).map((pieces) => `{"a": ${pieces.join("")}}`) },
    { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
  );
  let read = 0;
  let slowest = 0;
  fc.assert(
    fc.property(reply, fc.boolean(), (text, compat) => {
      const start = performance.now();
      try {
        extractJson(text, { compat });
        read++;
      } catch (error) {
        if (!(error instanceof ReplyError)) throw error;
      }
      slowest = Math.max(slowest, performance.now() - start);
    }),
    { numRuns: 100_000 },
  );
  t.log(`${read} read, ${100_000 - read} refused, slowest ${slowest.toFixed(1)} ms`);
  t.true(read > 1000 && slowest < 1000);
});

test("long and deep replies take linear time and no stack", (t) => {
  const start = performance.now();
  for (const part of ["{", '{"a":', "[", '"', "'''", "\\", "1", "_1", " ", "}", "-", '{"a": "', "1_"]) {
    for (const text of [part.repeat(200_000), `{"a": ${part.repeat(200_000)}}`, `{"a": "${part.repeat(200_000)}"}`]) {
      for (const compat of [true, false]) {
        try {
          extractJson(text, { compat });
        } catch (error) {
          t.true(error instanceof ReplyError, String(error));
        }
      }
    }
  }
  t.true(performance.now() - start < 10_000);
});
