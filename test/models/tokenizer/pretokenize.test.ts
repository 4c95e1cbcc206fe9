import test from "ava";
import fc from "fast-check";
import { byteLevelPreTokenizer } from "tokenizers";
import { byteToChar, writeUtf16 } from "../../../models/tokenizer/byteLevel.js";
import { GPT2_PATTERN, preTokenizers, QWEN_PATTERN } from "../../../models/tokenizer/pretokenize.js";
import { anyText, Oracle } from "./oracle.js";
import { qwenDirectory } from "./qwenFiles.js";

/** The text's pre-tokens, a character per byte. */
function pieces(pattern: string, text: string): string[] {
  const preTokenize = preTokenizers.get(pattern)!;
  const units = new Uint16Array(text.length);
  writeUtf16(text, units);
  const found: string[] = [];
  for (let start = 0, end = 0; start < text.length; start = end) {
    end = preTokenize(units, start, text.length);
    found.push(Array.from(Buffer.from(text.slice(start, end)), (byte) => byteToChar[byte]).join(""));
  }
  return found;
}

const oracles = {
  Qwen: [QWEN_PATTERN, Oracle.fromFile(`${qwenDirectory("qwen2_5")}/tokenizer.json`).getPreTokenizer()!],
  "GPT-2": [GPT2_PATTERN, byteLevelPreTokenizer(false, true)],
} as const;

for (const [name, [pattern, oracle]] of Object.entries(oracles)) {
  const expected = (text: string) => oracle.preTokenizeString(text).map(([piece]) => piece);

  test(`${name}: contractions in either case, with a long s, and what only looks like one`, (t) => {
    const letters = [..."sStTrRvVeEmMlLdDnN", "\u017f", "\u212a", "\ufb06", "1", " ", "'", ""];
    for (const first of letters) {
      for (const second of letters) {
        const text = `it'${first}${second}a`;
        t.deepEqual(pieces(pattern, text), expected(text));
      }
    }
  });

  test(`${name}: pre-tokens of random text are the oracle's`, (t) => {
    const property = fc.property(anyText, (text) => {
      t.deepEqual(pieces(pattern, text), expected(text));
    });
    fc.assert(property, { numRuns: 2000 });
    t.pass();
  });

  test(`${name}: pre-tokens of runs of spaces, newlines and one of each class are the oracle's`, (t) => {
    const classes = fc.constantFrom(
      " ",
      " ",
      "\t",
      "\n",
      "\r",
      "\u3000",
      "a",
      "1",
      ".",
      "😀",
      "\u{10400}",
      "\u{1d7d8}",
      "'",
    );
    const property = fc.property(fc.array(classes, { maxLength: 10 }), (parts) => {
      t.deepEqual(pieces(pattern, parts.join("")), expected(parts.join("")));
    });
    fc.assert(property, { numRuns: 3000 });
    t.pass();
  });
}
