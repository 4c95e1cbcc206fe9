import { charClass, LETTER, NEWLINE, NUMBER, OTHER, SPACE } from "./charClass.js";

/** Where the pre-token that begins at `start` ends, in UTF-16 code units; `start < end`. */
export type PreTokenizer = (units: Uint16Array, start: number, end: number) => number;

/** GPT-2's regular expression, which `ByteLevel` with `use_regex` means. */
export const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
/** The one of Qwen2, Qwen2.5 and Qwen3. */
export const QWEN_PATTERN = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const APOSTROPHE = 0x27;
const BLANK = 0x20;
/** U+017F, which case-insensitive matching takes for an s. */
const LONG_S = 0x17f;

/** Low surrogate at `i`, or 0. */
function lowSurrogate(units: Uint16Array, i: number, end: number): number {
  return i < end && (units[i] & 0xfc00) === 0xdc00 ? units[i] : 0;
}

/** Class of the character at `i`. A lone surrogate is U+FFFD by the time it is encoded: neither letter, number nor space. */
function classAt(units: Uint16Array, i: number, end: number): number {
  const unit = units[i];
  if ((unit & 0xfc00) !== 0xd800) return charClass[unit];
  const low = lowSurrogate(units, i + 1, end);
  return low === 0 ? OTHER : charClass[((unit - 0xd800) << 10) + (low - 0xdc00) + 0x10000];
}

/** Index after the character at `i`. */
function after(units: Uint16Array, i: number, end: number): number {
  return (units[i] & 0xfc00) === 0xd800 && lowSurrogate(units, i + 1, end) !== 0 ? i + 2 : i + 1;
}

/** End of the run of one class that goes on at `i`. */
function run(units: Uint16Array, i: number, end: number, kind: number): number {
  while (i < end && classAt(units, i, end) === kind) i = after(units, i, end);
  return i;
}

/** Length of `'s 't 're 've 'm 'll 'd` at `i`, which is an apostrophe, or 0. */
function contraction(units: Uint16Array, i: number, end: number, ignoreCase: boolean): number {
  const letter = (k: number) => {
    const unit = k < end ? units[k] : 0;
    if (!ignoreCase) return unit;
    return unit === LONG_S ? 0x73 : unit >= 0x41 && unit <= 0x5a ? unit | 0x20 : unit;
  };
  const first = String.fromCharCode(letter(i + 1));
  if ("stmd".includes(first)) return 2;
  const both = first + String.fromCharCode(letter(i + 2));
  return both === "re" || both === "ve" || both === "ll" ? 3 : 0;
}

/** `\s+(?!\S)|\s+`: a run of spaces, less its last character when a word follows. */
function spaces(units: Uint16Array, start: number, end: number): number {
  let i = start;
  while (i < end && classAt(units, i, end) >= SPACE) i++;
  return i === end || i === start + 1 ? i : i - 1;
}

/** GPT2_PATTERN. */
function gpt2(units: Uint16Array, start: number, end: number): number {
  const length = units[start] === APOSTROPHE ? contraction(units, start, end, false) : 0;
  if (length > 0) return start + length;
  const first = units[start] === BLANK && start + 1 < end ? start + 1 : start;
  const kind = classAt(units, first, end);
  return kind >= SPACE ? spaces(units, start, end) : run(units, first, end, kind);
}

/** QWEN_PATTERN. */
function qwen(units: Uint16Array, start: number, end: number): number {
  const kind = classAt(units, start, end);
  const second = after(units, start, end);
  if (kind === LETTER) return run(units, second, end, LETTER);
  if (kind === NUMBER) return second;
  const length = units[start] === APOSTROPHE ? contraction(units, start, end, true) : 0;
  if (length > 0) return start + length;
  const next = second < end ? classAt(units, second, end) : NEWLINE;
  if (kind !== NEWLINE && next === LETTER) return run(units, second, end, LETTER);
  if (kind === OTHER || (units[start] === BLANK && next === OTHER)) {
    return run(units, run(units, second, end, OTHER), end, NEWLINE);
  }
  let lastNewline = -1;
  for (let i = start; i < end; i++) {
    const space = classAt(units, i, end);
    if (space < SPACE) break;
    if (space === NEWLINE) lastNewline = i;
  }
  return lastNewline < 0 ? spaces(units, start, end) : lastNewline + 1;
}

/** Scanners by the regular expression that they stand for. */
export const preTokenizers: ReadonlyMap<string, PreTokenizer> = new Map([
  [GPT2_PATTERN, gpt2],
  [QWEN_PATTERN, qwen],
]);
