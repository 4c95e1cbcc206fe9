import { randomStream } from "../../../lib/index.js";
import type { ChatRenderer, Tokenizer } from "../../../models/index.js";
import { type TokenizedDialogue, tokenizeDialogue } from "../../dialogue.js";
import { gameOf } from "./game.js";
import { randomScript } from "./scripts.js";

/** Warm-up batches: for step s, `size` random scripts on random training games. */
export function scriptBatches(
  parts: { readonly chat: ChatRenderer; readonly tokenizer: Tokenizer },
  { size, games, seed }: { readonly size: number; readonly games: number; readonly seed: number },
): (step: number) => TokenizedDialogue[] {
  return (step) => {
    const random = randomStream(seed, 2, step);
    return Array.from({ length: size }, () =>
      tokenizeDialogue(randomScript(gameOf(random.int(games), "train"), random), parts),
    );
  };
}
