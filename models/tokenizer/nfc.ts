import { codePoints } from "./charClass.js";
import { COMBINING_CLASSES, COMPOSITIONS, DECOMPOSITIONS } from "./unicode.js";

/*
 * Canonical composition (Unicode Standard Annex 15) from tables of the oracle's Unicode version. The host's
 * String.prototype.normalize differs from it wherever one of the two knows newer characters.
 */

const HANGUL = 0xac00; // the first of 11,172 syllables: lead × 21 vowels × 28 trails
const LEAD = 0x1100;
const VOWEL = 0x1161;
const TRAIL = 0x11a7; // trail 0 is "none"
const VOWELS = 21;
const TRAILS = 28;
const SYLLABLES = 19 * VOWELS * TRAILS;

const combiningClass = new Map<number, number>();
for (const [i, table] of COMBINING_CLASSES.split("/").entries()) {
  for (const code of codePoints(table)) combiningClass.set(code, i + 1);
}

const decomposition = new Map<number, readonly number[]>();
const composition = new Map<number, number>();
const pair = (first: number, second: number) => first * 0x110000 + second;
const rows = (table: string) =>
  table
    .trim()
    .split(/\s+/)
    .map((row) => row.split(".").map((word) => Number.parseInt(word, 36)));

for (const [code, ...parts] of rows(DECOMPOSITIONS)) decomposition.set(code, parts);
for (const [code, first, second] of rows(COMPOSITIONS)) {
  decomposition.set(code, [first, second]);
  composition.set(pair(first, second), code);
}

/** 1 for the code points that NFC may change or join to what stands before them; text without any is its own NFC. */
const active = new Uint8Array(0x110000);
for (const code of combiningClass.keys()) active[code] = 1;
for (const [code] of rows(DECOMPOSITIONS)) active[code] = 1;
for (const [, , second] of rows(COMPOSITIONS)) active[second] = 1;
active.fill(1, VOWEL, VOWEL + VOWELS).fill(1, TRAIL + 1, TRAIL + TRAILS);
for (const [code] of rows(COMPOSITIONS)) if (active[decompose(code)[0]]) active[code] = 1;

function decompose(code: number): number[] {
  const syllable = code - HANGUL;
  if (syllable >= 0 && syllable < SYLLABLES) {
    const trail = syllable % TRAILS;
    const vowel = VOWEL + (Math.floor(syllable / TRAILS) % VOWELS);
    const lead = LEAD + Math.floor(syllable / (TRAILS * VOWELS));
    return trail === 0 ? [lead, vowel] : [lead, vowel, TRAIL + trail];
  }
  return decomposition.get(code)?.flatMap(decompose) ?? [code];
}

function compose(first: number, second: number): number | undefined {
  const vowel = second - VOWEL;
  if (first >= LEAD && first < LEAD + 19 && vowel >= 0 && vowel < VOWELS) {
    return HANGUL + ((first - LEAD) * VOWELS + vowel) * TRAILS;
  }
  const syllable = first - HANGUL;
  if (syllable >= 0 && syllable < SYLLABLES && syllable % TRAILS === 0 && second > TRAIL && second < TRAIL + TRAILS) {
    return first + second - TRAIL;
  }
  return composition.get(pair(first, second));
}

const classOf = (code: number) => combiningClass.get(code) ?? 0;

function normalizeRun(text: string): string {
  const codes = Array.from(text, (c) => c.codePointAt(0)!).flatMap(decompose);
  sortMarks(codes);
  const result: number[] = [];
  let starter = -1; // index in `result` of the last starter
  for (const code of codes) {
    const markClass = classOf(code);
    const blocked = starter < result.length - 1 && classOf(result.at(-1)!) >= markClass;
    const composite = starter < 0 || blocked ? undefined : compose(result[starter], code);
    if (composite !== undefined) {
      result[starter] = composite;
    } else {
      if (markClass === 0) starter = result.length;
      result.push(code);
    }
  }
  return result.map((code) => String.fromCodePoint(code)).join("");
}

/** Sorts each run of marks by combining class; marks of one class keep their order. */
function sortMarks(codes: number[]): void {
  for (let start = 0, end: number; start < codes.length; start = end + 1) {
    end = start;
    while (end < codes.length && classOf(codes[end]) > 0) end++;
    if (end - start < 2) continue;
    const marks = codes.slice(start, end).sort((a, b) => classOf(a) - classOf(b));
    for (const [i, mark] of marks.entries()) codes[start + i] = mark;
  }
}

/** Normalization form C of `text`. Lone surrogates stay. */
export function nfc(text: string): string {
  let result = "";
  let copied = 0; // text before this index is in `result`
  let boundary = 0; // start of the last inactive character: what stands before it is not touched by what follows
  for (let i = 0; i < text.length; ) {
    const unit = text.charCodeAt(i);
    if (unit < 0x300) {
      boundary = i++;
      continue;
    }
    const code = text.codePointAt(i)!;
    const width = code > 0xffff ? 2 : 1;
    if (active[code] === 0) {
      boundary = i;
      i += width;
      continue;
    }
    let end = i + width;
    while (end < text.length && active[text.codePointAt(end)!]) end += text.codePointAt(end)! > 0xffff ? 2 : 1;
    result += text.slice(copied, boundary) + normalizeRun(text.slice(boundary, end));
    copied = boundary = i = end;
  }
  return copied === 0 ? text : result + text.slice(copied);
}
