import type { Message } from "../../models/message.js";
import { wordsOf } from "./words.js";

/** How much of a hidden text the simulated user gave away. */
export interface Leak {
  /** Share of the hidden text's words, in [0, 1], that stand in what the user copied. */
  readonly share: number;
  /** The longest stretch of the hidden text, in words, that copies cover; 0 where nothing was copied. */
  readonly longestRun: number;
  /** The message with the first copied run. */
  readonly message?: number;
}

export interface LeakOptions {
  /** Messages before the first that the simulated user wrote; what they say is no secret. */
  readonly openingLength: number;
  /** Texts that the user may quote, such as the request where the hidden text is its answer. */
  readonly allowed?: readonly string[];
  /** How many words in a row are a copy. Default 8; of a shorter hidden text, all its words. */
  readonly run?: number;
}

/**
 * Finds runs of words of a hidden text (the reference answer) in the simulated user's messages that neither the opening
 * nor an allowed text nor an earlier assistant message contains: then the policy was told what it should have found,
 * and the outcome tells nothing. Case and punctuation do not matter.
 */
export function leakOf(messages: readonly Message[], hidden: string, options: LeakOptions): Leak {
  const { openingLength, allowed = [], run = 8 } = options;
  const secret = wordsOf(hidden);
  const n = Math.min(run, secret.length);
  if (n === 0) return { share: 0, longestRun: 0 };
  const open = new Set(allowed.flatMap((text) => runsOf(wordsOf(text), n)));
  const copied = new Map<string, number>();
  for (const [i, { role, content }] of messages.entries()) {
    const isUsers = role === "user" && i >= openingLength;
    for (const each of runsOf(wordsOf(content), n)) {
      if (!isUsers) open.add(each);
      else if (!open.has(each) && !copied.has(each)) copied.set(each, i);
    }
  }
  const copiedIn = runsOf(secret, n).map((each) => copied.get(each));
  const isCopied = new Array<boolean>(secret.length).fill(false);
  for (const [i, message] of copiedIn.entries()) if (message !== undefined) isCopied.fill(true, i, i + n);
  const found = copiedIn.filter((message) => message !== undefined);
  return {
    share: isCopied.filter(Boolean).length / secret.length,
    longestRun: longestStretch(isCopied),
    message: found.length ? Math.min(...found) : undefined,
  };
}

function runsOf(words: readonly string[], n: number): string[] {
  return Array.from({ length: Math.max(0, words.length - n + 1) }, (_, i) => words.slice(i, i + n).join(" "));
}

function longestStretch(flags: readonly boolean[]): number {
  let longest = 0;
  let current = 0;
  for (const flag of flags) longest = Math.max(longest, (current = flag ? current + 1 : 0));
  return longest;
}
