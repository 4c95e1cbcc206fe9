import test from "ava";
import fc from "fast-check";
import { nfcNormalizer } from "tokenizers";
import { charClass, LETTER, NEWLINE, NUMBER, SPACE } from "../../../models/tokenizer/charClass.js";
import { nfc } from "../../../models/tokenizer/nfc.js";
import { classRanges } from "../../tools/generateUnicode.js";
import { anyText } from "./oracle.js";

const oracle = nfcNormalizer();

for (const [pattern, classes] of [
  ["\\p{L}", [LETTER]],
  ["\\p{N}", [NUMBER]],
  ["\\s", [SPACE, NEWLINE]],
] as const) {
  test(`every code point is in ${pattern} or not as in the oracle's regular expressions`, (t) => {
    const expected = new Uint8Array(charClass.length);
    for (const [first, last] of classRanges(pattern)) expected.fill(1, first, last + 1);
    const ours = charClass.map((kind) => Number((classes as readonly number[]).includes(kind)));
    t.is(Buffer.compare(ours, expected), 0);
  });
}

test("NFC of every code point is the oracle's", (t) => {
  const codes = Array.from({ length: 0x110000 }, (_, code) => code).filter((code) => code < 0xd800 || code > 0xdfff);
  const text = codes.map((code) => String.fromCodePoint(code)).join("\u0001");
  t.true(nfc(text) === oracle.normalizeString(text));
});

test("NFC of runs of marks, jamo and composing characters is the oracle's", (t) => {
  const isSyllable = (code: number) => code >= 0xac00 && code <= 0xd7a3;
  const active = Array.from({ length: 0x30000 }, (_, code) => code)
    .filter((code) => (code < 0xd800 || code > 0xdfff) && !isSyllable(code))
    .map((code) => String.fromCodePoint(code))
    .filter((c) => /\p{M}/u.test(c) || c.normalize("NFD") !== c || (c >= "\u1100" && c <= "\u11ff"));
  const jamo = ["\u1100", "\u1161", "\u1175", "\u11a7", "\u11a8", "\u11c2", "가", "각", "\ud7a3"];
  const latin = ["a", "e", "o", "\u0334", "\u0345", "\u0301", "\u0327"];
  const run = fc.array(fc.oneof(...[latin, jamo, active].map((c) => fc.constantFrom(...c))), { maxLength: 12 });
  fc.assert(
    fc.property(run, (parts) => nfc(parts.join("")) === oracle.normalizeString(parts.join(""))),
    { numRuns: 3000 },
  );
  fc.assert(
    fc.property(anyText, (text) => nfc(text) === oracle.normalizeString(text)),
    { numRuns: 1000 },
  );
  t.pass();
});

test("a hundred thousand marks in a row are sorted in linear time or so", (t) => {
  const marks = "\u0301\u0327\u0323".repeat(33_333);
  t.true(nfc(`a${marks}`) === oracle.normalizeString(`a${marks}`));
});
