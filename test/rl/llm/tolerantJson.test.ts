import test from "ava";
import { readTolerantJson } from "../../../rl/llm/tolerantJson.js";

const readings: Record<string, readonly [text: string, value: unknown]> = {
  "text around it": ['noise {"thought": "x", "accuracy": 1} tail', { thought: "x", accuracy: 1 }],
  "single quotes; a string stays a string": [`{'thought': 'it', "accuracy": "1"}`, { thought: "it", accuracy: "1" }],
  "trailing commas": ['{"a": [1, 2,], "b": {"c": -1.5e2},}', { a: [1, 2], b: { c: -150 } }],
  "triple quotes": ['{"a": """l1\nl2 "q" ok""", "b": 0}', { a: 'l1\nl2 "q" ok', b: 0 }],
  "literals of Python": ['{"a": True, "b": FALSE, "c": None, "d": null}', { a: true, b: false, c: null, d: null }],
  "line breaks and escapes in strings": ['{"a": "x\ny\\n\\"z\\" \\u00e9"}', { a: 'x\ny\n"z" é' }],
  "a fence of markdown": ['```json\n{"a": 1}\n```', { a: 1 }],
  "the last of two equal keys": ['{"a": 1, "a": 2}', { a: 2 }],
  "a key that is no plain one": ['{"__proto__": 1}', Object.fromEntries([["__proto__", 1]])],
};
for (const [what, [text, value]] of Object.entries(readings)) {
  test(`TV-31, read: ${what}`, (t) => {
    t.deepEqual(readTolerantJson(text), value);
  });
}

for (const text of [
  ...['{"a": 1', "no json", '{"a" 1}', '{"a": 1} and {"b": 2}', '{"a": 1 "b": 2}', "{1: 2}", '{"a": 1-2}'],
  ...['{"a": infinity}', '{"a": }', '{"a": "b}', "}{", '{"a": --1}', '{"a": .}'],
]) {
  test(`TV-31, refused: ${text}`, (t) => {
    t.throws(() => readTolerantJson(text), { instanceOf: SyntaxError });
  });
}
