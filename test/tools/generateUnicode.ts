import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { nfcNormalizer, nfdNormalizer, Tokenizer } from "tokenizers";
import { root } from "../support.js";

/*
 * Writes models/tokenizer/unicode.ts from what the `tokenizers` package itself does, so that our classes and NFC are its
 * Unicode version's whatever the host's is. Run it after updating `tokenizers`:  node dist/test/tools/generateUnicode.js
 */

const CODE_POINTS = Array.from({ length: 0x110000 }, (_, code) => code).filter(
  (code) => code < 0xd800 || code > 0xdfff,
);

/** Never part of a decomposition, and a starter: what stands on its two sides is normalized apart. */
const SEPARATOR = "\u0001";

/** `normalize` of many strings in one call. */
function normalizeAll(normalize: (text: string) => string, texts: string[]): string[] {
  return normalize(texts.join(SEPARATOR)).split(SEPARATOR);
}

const nfd = (text: string) => nfdNormalizer().normalizeString(text);
const nfc = (text: string) => nfcNormalizer().normalizeString(text);

/** [first, last] ranges of the code points that the oracle's regular expression engine puts into `characterClass`. */
export function classRanges(characterClass: string): [number, number][] {
  const preTokenizer = Tokenizer.fromString(
    JSON.stringify({
      version: "1.0",
      added_tokens: [],
      pre_tokenizer: { type: "Split", pattern: { Regex: `${characterClass}+` }, behavior: "Isolated", invert: false },
      model: { type: "WordLevel", vocab: { a: 0 }, unk_token: "a" },
    }),
  ).getPreTokenizer()!;
  // All code points in order: the pieces alternate between outside the class (U+0000 is in none of ours) and inside.
  const ranges: [number, number][] = [];
  let position = 0;
  for (const [index, [piece]] of preTokenizer.preTokenizeString(allCodePoints()).entries()) {
    const length = [...piece].length;
    if (index % 2 === 1) ranges.push([CODE_POINTS[position], CODE_POINTS[position + length - 1]]);
    position += length;
  }
  return ranges;
}

function allCodePoints(): string {
  return CODE_POINTS.map((code) => String.fromCodePoint(code)).join("");
}

/** Combining marks by their canonical combining class, in ascending order of class; only the order matters to NFC. */
function combiningClasses(): number[][] {
  const inert = CODE_POINTS.filter((code) => code !== 1).map((code) => String.fromCodePoint(code));
  const lowest = "\u0334"; // class 1
  const highest = "\u0345"; // class 240
  const aboveLowest = normalizeAll(
    nfd,
    inert.map((c) => c + lowest),
  );
  const belowHighest = normalizeAll(
    nfd,
    inert.map((c) => highest + c),
  );
  const alone = normalizeAll(nfd, inert);
  const marks = inert.filter(
    (c, i) => alone[i] === c && (aboveLowest[i] !== c + lowest || belowHighest[i] !== highest + c || c === highest),
  );
  const classes: string[][] = [];
  for (const mark of marks) {
    const above = (other: string) => nfd(mark + other) !== mark + other;
    const below = (other: string) => nfd(other + mark) !== other + mark;
    let place = 0;
    while (place < classes.length && above(classes[place][0])) place++;
    if (place < classes.length && !below(classes[place][0])) classes[place].push(mark);
    else classes.splice(place, 0, [mark]);
  }
  return classes.map((members) => members.map((mark) => mark.codePointAt(0)!));
}

/** Canonical mappings, Hangul syllables (which are computed) left out. */
function mappings(): { compositions: number[][]; decompositions: number[][] } {
  const codes = CODE_POINTS.filter((code) => code !== 1 && (code < 0xac00 || code > 0xd7a3));
  const texts = codes.map((code) => String.fromCodePoint(code));
  const decomposed = normalizeAll(nfd, texts);
  const composed = normalizeAll(nfc, texts);
  const compositions: number[][] = [];
  const decompositions: number[][] = [];
  for (const [i, code] of codes.entries()) {
    if (decomposed[i] === texts[i]) continue;
    const full = Array.from(decomposed[i], (c) => c.codePointAt(0)!);
    if (composed[i] !== texts[i]) {
      decompositions.push([code, ...full]);
      continue;
    }
    const first = nfc(String.fromCodePoint(...full.slice(0, -1)));
    const last = full.at(-1)!;
    if ([...first].length !== 1 || nfc(first + String.fromCodePoint(last)) !== texts[i]) {
      throw new Error(`U+${code.toString(16)} does not compose from a pair`);
    }
    compositions.push([code, first.codePointAt(0)!, last]);
  }
  return { compositions, decompositions };
}

/** Ascending ranges as gap, length − 1, gap, … in base 36. */
function encodeRanges(ranges: [number, number][]): string[] {
  let previous = 0;
  return ranges.flatMap(([first, last]) => {
    const words = [first - previous, last - first].map((n) => n.toString(36));
    previous = last;
    return words;
  });
}

function ranges(codes: number[]): [number, number][] {
  const result: [number, number][] = [];
  for (const code of codes) {
    const last = result.at(-1);
    if (last?.[1] === code - 1) last[1] = code;
    else result.push([code, code]);
  }
  return result;
}

function constant(name: string, comment: string, words: string[]): string {
  const lines = [""];
  for (const word of words) {
    if (lines.at(-1)!.length + word.length + 1 > 118) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) === "" ? "" : " ") + word;
  }
  return `/** ${comment} */\nexport const ${name} = \`\n${lines.join("\n")}\n\`;\n`;
}

/** The text of models/tokenizer/unicode.ts. */
export function unicodeModule(): string {
  const packageFile = createRequire(import.meta.url).resolve("tokenizers/package.json");
  const { version } = JSON.parse(readFileSync(packageFile, "utf8")) as { version: string };
  const { compositions, decompositions } = mappings();
  const base36 = (codes: number[]) => codes.map((code) => code.toString(36)).join(".");
  return [
    `// Generated by test/tools/generateUnicode.ts from tokenizers ${version}. Numbers are in base 36.\n`,
    constant(
      "LETTERS",
      "Ranges of \\p{L}: gap from the end of the last one, length − 1.",
      encodeRanges(classRanges("\\p{L}")),
    ),
    constant("NUMBERS", "Ranges of \\p{N}.", encodeRanges(classRanges("\\p{N}"))),
    constant("SPACES", "Ranges of \\s.", encodeRanges(classRanges("\\s"))),
    constant(
      "COMBINING_CLASSES",
      "Ranges of combining marks for each canonical combining class above 0, in ascending order, separated by a slash.",
      combiningClasses().flatMap((codes, i) => [...(i ? ["/"] : []), ...encodeRanges(ranges(codes))]),
    ),
    constant("COMPOSITIONS", "Primary composites: composite.first.second.", compositions.map(base36)),
    constant(
      "DECOMPOSITIONS",
      "Full canonical decompositions of what is no primary composite: character.parts….",
      decompositions.map(base36),
    ),
  ].join("\n");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(join(root, "models", "tokenizer", "unicode.ts"), unicodeModule());
}
