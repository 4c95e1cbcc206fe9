import { type RandomStream, randomStream } from "../../lib/index.js";
import type { ChatRenderer, Message, Tokenizer } from "../../models/index.js";
import { type TokenizedDialogue, tokenizeDialogue } from "../dialogue.js";

/** A conversation on training task `task` of somebody who knows the rules and nothing else. */
export type ScriptWriter = (task: number, random: RandomStream) => Message[];

/** Warm-up batches: for step s, `size` random scripts on random training games. */
export function scriptBatches(
  parts: { readonly chat: ChatRenderer; readonly tokenizer: Tokenizer },
  script: ScriptWriter,
  { size, games, seed }: { readonly size: number; readonly games: number; readonly seed: number },
): (step: number) => TokenizedDialogue[] {
  return (step) => {
    const random = randomStream(seed, 2, step);
    return Array.from({ length: size }, () => tokenizeDialogue(script(random.int(games), random), parts));
  };
}
