import { LETTERS, NUMBERS, SPACES } from "./unicode.js";

export const OTHER = 0;
export const LETTER = 1;
export const NUMBER = 2;
export const SPACE = 3;
/** `\r` and `\n`, which are also spaces. */
export const NEWLINE = 4;

/** The code points of a table of unicode.ts: gap from the end of the last range, length − 1, … in base 36. */
export function* codePoints(table: string): Generator<number> {
  const numbers = table.trim().split(/\s+/);
  let code = 0;
  for (let i = 0; i < numbers.length; i += 2) {
    code += Number.parseInt(numbers[i], 36);
    const last = code + Number.parseInt(numbers[i + 1], 36);
    while (code < last) yield code++;
    yield code;
  }
}

/** Class of every code point, as the oracle's regular expressions see it; never the host's `\p{L}` or `\s`. */
export const charClass: Uint8Array = (() => {
  const classes = new Uint8Array(0x110000);
  for (const code of codePoints(LETTERS)) classes[code] = LETTER;
  for (const code of codePoints(NUMBERS)) classes[code] = NUMBER;
  for (const code of codePoints(SPACES)) classes[code] = SPACE;
  classes[0x0a] = classes[0x0d] = NEWLINE;
  return classes;
})();
