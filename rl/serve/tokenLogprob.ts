import type { Tokenizer } from "../../models/index.js";

/** A drawn token as OpenAI describes it. */
export interface TokenLogprob {
  /** The token's text; where its bytes are no text, they are written as `\xe4\xbd`. */
  readonly token: string;
  /** Natural logarithm. */
  readonly logprob: number;
  /** UTF-8 bytes that the token adds to the text; null for special tokens. */
  readonly bytes: number[] | null;
  readonly top_logprobs: [];
}

/** OpenAI's value for what is as good as impossible; JSON has no −∞. */
const LEAST = -9999;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function tokenLogprob(tokenizer: Tokenizer, id: number, logprob: number, first: boolean): TokenLogprob {
  const bytes = tokenizer.bytes(id, { first });
  const isText = bytes.length > 0;
  return {
    token: isText ? spell(bytes) : tokenizer.decode([id], { specialTokens: true }),
    logprob: Math.max(LEAST, logprob),
    bytes: isText ? [...bytes] : null,
    top_logprobs: [],
  };
}

function spell(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}
