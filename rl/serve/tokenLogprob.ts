import type { LikelyToken, Tokenizer } from "../../models/index.js";

/** A token as OpenAI describes it. */
interface DescribedToken {
  /** The token's text; where its bytes are no text, they are written as `\xe4\xbd`. */
  readonly token: string;
  /** Natural logarithm. */
  readonly logprob: number;
  /** UTF-8 bytes that the token adds to the text; null for special tokens. */
  readonly bytes: number[] | null;
}

/** A drawn token as OpenAI describes it, with those that were most likely in its place. */
export interface TokenLogprob extends DescribedToken {
  readonly top_logprobs: DescribedToken[];
}

/** OpenAI's value for what is as good as impossible; JSON has no −∞. */
const LEAST = -9999;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @param first whether no text comes before the token */
export function tokenLogprob(
  tokenizer: Tokenizer,
  drawn: LikelyToken,
  likely: readonly LikelyToken[],
  first: boolean,
): TokenLogprob {
  const describe = (token: LikelyToken) => describeToken(tokenizer, token, first);
  return { ...describe(drawn), top_logprobs: likely.map(describe) };
}

function describeToken(tokenizer: Tokenizer, { id, logprob }: LikelyToken, first: boolean): DescribedToken {
  const bytes = tokenizer.bytes(id, { first });
  const isText = bytes.length > 0;
  return {
    token: isText ? spell(bytes) : tokenizer.decode([id], { specialTokens: true }),
    logprob: Math.max(LEAST, logprob),
    bytes: isText ? [...bytes] : null,
  };
}

function spell(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}
