import type { RandomStream } from "../../../lib/index.js";
import type { Message } from "../../../models/index.js";
import { answer, type Game, gameOf, question, replyTo, slots } from "../quickstart/game.js";
import type { Ceilings } from "../quickstart/scripts.js";
import type { ScriptWriter } from "../warmup.js";
import { maxTalk, politeReply, smallTalk } from "./game.js";

/**
 * A conversation of somebody who knows the rules and nothing else: one to four turns, at a random one of which a random
 * slot is asked for, small talk at the others; then the answer is the value heard. Warm-up trains on these.
 */
export function randomTalk(game: Game, random: RandomStream): Message[] {
  const turns = 1 + random.int(maxTalk);
  const asking = random.int(turns);
  const slot = random.int(slots.length);
  return [
    { role: "user", content: game.opening },
    ...Array.from({ length: turns }, (_, k): Message[] => [
      { role: "assistant", content: k === asking ? question(slot) : smallTalk },
      { role: "user", content: k === asking ? replyTo(game, slot) : politeReply },
    ]).flat(),
    { role: "assistant", content: answer(slots[slot].values[game.values[slot]]) },
  ];
}

/** Warm-up scripts of the game. */
export const smalltalkScript: ScriptWriter = (task, random) => randomTalk(gameOf(task, "train"), random);

/** The ceilings, counted over every slot and value; the number of turns changes none of them. */
export function smalltalkCeilings(): Ceilings {
  const values = slots[0].values.length;
  const others = slots.length - 1;
  return {
    answerAtOnce: 1 / values,
    fixedScript: 1 / slots.length + (others / slots.length) * (1 / others) * (1 / values),
    oracle: 1,
  };
}
