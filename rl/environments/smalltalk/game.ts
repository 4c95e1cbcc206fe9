import type { Tokenizer } from "../../../models/index.js";
import type { Environment } from "../../environment.js";
import { gameEnvironment, readTurn, replyTo, words } from "../quickstart/game.js";
import { gameTokenizer } from "../quickstart/tokenizer.js";

/*
 * The quickstart's game with a free number of turns. The user answers one question about a thing, as in the quickstart,
 * and as much small talk ("anything else ?", "nothing else") as the policy likes; after at most four turns of either kind
 * the policy must answer. A second question about a thing ends the game with 0. Small talk tells nothing and costs
 * nothing, so that a change in the number of turns is the training's doing and not the outcome's.
 */

/** Turns before the answer. */
export const maxTalk = 4;
export const smallTalk = "anything else ?";
export const politeReply = "nothing else";

/** The game as an environment; its metric is `accuracy`, 1 for the right answer. */
export function smalltalkEnvironment({ heldOutGames = 512 } = {}): Environment {
  return gameEnvironment("smalltalk", heldOutGames, (game, turns) => {
    const last = turns[turns.length - 1];
    if (turns.length > maxTalk) return undefined;
    if (last === smallTalk) return politeReply;
    const turn = readTurn(last);
    const questions = turns.filter((text) => text !== smallTalk).length;
    return turn && "asked" in turn && questions === 1 ? replyTo(game, turn.asked) : undefined;
  });
}

/** The game's tokenizer. */
export function smalltalkTokenizer(): Tokenizer {
  return gameTokenizer([...new Set([...words, ...smallTalk.split(" "), ...politeReply.split(" ")])]);
}
