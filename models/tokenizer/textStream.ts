import type { Tokenizer } from "./tokenizer.js";

/** Turns tokens into text as they come. A character whose bytes lie in several tokens comes out whole, with the last. */
export interface TextStream {
  /** The text that is certain with this token; special tokens have none. */
  push(id: number): string;
  /** What is left at the end: U+FFFD for a character that was not completed. */
  end(): string;
}

/**
 * A stream whose texts, put together, are what `tokenizer.decode` gives for all tokens. Bytes that are not UTF-8 are U+FFFD as
 * in the WHATWG's decoder, one for each broken character, where SentencePiece writes one for each of its bytes.
 */
export function textStream(tokenizer: Tokenizer): TextStream {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  let first = true;
  return {
    push(id) {
      const bytes = tokenizer.bytes(id, { first });
      // A first token may be a blank alone, which is left out and makes the next one no first.
      first &&= tokenizer.bytes(id).length === 0;
      return utf8.decode(bytes, { stream: true });
    },
    end: () => utf8.decode(),
  };
}
