/*
 * GPT-2's printable alphabet for bytes: tokenizer.json spells each token with one character per byte. Printable Latin-1
 * bytes stand for themselves, the others for U+0100, U+0101, …
 */

const printable = (byte: number) =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);

/** The 256 bytes, printable ones first: the order of their token ids in GPT-2's and Qwen's vocabularies. */
export const byteOrder: readonly number[] = (() => {
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  return [...bytes.filter(printable), ...bytes.filter((byte) => !printable(byte))];
})();

/** Character of each byte. */
export const byteToChar: readonly string[] = (() => {
  const chars: string[] = [];
  let next = 0x100;
  for (const byte of byteOrder) chars[byte] = String.fromCharCode(printable(byte) ? byte : next++);
  return chars;
})();

const charToByte = new Map(byteToChar.map((char, byte) => [char, byte]));

/** Bytes of a token as tokenizer.json spells it, or `undefined` where it has a character outside of the alphabet. */
export function tokenBytes(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = charToByte.get(token[i]);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}

/** Writes the UTF-16 code units of `text` to `units`, which has room for them. */
export function writeUtf16(text: string, units: Uint16Array): void {
  Buffer.from(units.buffer, units.byteOffset, units.byteLength).write(text, "utf16le");
}

/**
 * Writes `ids[byte]` for each UTF-8 byte of the UTF-16 code units [start, end) to `symbols`, lone surrogates as U+FFFD.
 * Returns how many: at most 3 per code unit.
 */
export function byteSymbols(
  units: Uint16Array,
  start: number,
  end: number,
  ids: Int32Array,
  symbols: Int32Array,
): number {
  let count = 0;
  for (let i = start; i < end; i++) {
    let code = units[i];
    if (code < 0x80) {
      symbols[count++] = ids[code];
      continue;
    }
    if ((code & 0xf800) === 0xd800) {
      const low = i + 1 < end ? units[i + 1] : 0;
      const isPair = code < 0xdc00 && (low & 0xfc00) === 0xdc00;
      code = isPair ? ((code - 0xd800) << 10) + (low - 0xdc00) + 0x10000 : 0xfffd;
      if (isPair) i++;
    }
    if (code < 0x800) {
      symbols[count++] = ids[0xc0 | (code >> 6)];
    } else {
      if (code < 0x10000) {
        symbols[count++] = ids[0xe0 | (code >> 12)];
      } else {
        symbols[count++] = ids[0xf0 | (code >> 18)];
        symbols[count++] = ids[0x80 | ((code >> 12) & 0x3f)];
      }
      symbols[count++] = ids[0x80 | ((code >> 6) & 0x3f)];
    }
    symbols[count++] = ids[0x80 | (code & 0x3f)];
  }
  return count;
}
