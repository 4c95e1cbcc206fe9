import type { RandomStream } from "../../../lib/index.js";
import type { Message } from "../../../models/index.js";
import type { ScriptWriter } from "../warmup.js";
import { answer, type Game, gameOf, maxQuestions, question, replyTo, slots } from "./game.js";

/** Warm-up scripts of the game. */
export const quickstartScript: ScriptWriter = (task, random) => randomScript(gameOf(task, "train"), random);

/**
 * A conversation of somebody who knows the rules and nothing else: asks for two slots at random and answers with the
 * certain value if one came up, else with one of those it heard. Warm-up trains on these.
 */
export function randomScript(game: Game, random: RandomStream): Message[] {
  const asked = random.shuffle(slots.map((_, slot) => slot)).slice(0, maxQuestions);
  const heard = asked.includes(game.slot) ? game.slot : random.pick(asked);
  return [
    { role: "user", content: game.opening },
    ...asked.flatMap((slot): Message[] => [
      { role: "assistant", content: question(slot) },
      { role: "user", content: replyTo(game, slot) },
    ]),
    { role: "assistant", content: answer(slots[heard].values[game.values[heard]]) },
  ];
}

/** Best possible shares of right answers for policies that lack one ability or another. */
export interface Ceilings {
  /** Answers at once, having understood the hint: one of that slot's values. */
  readonly answerAtOnce: number;
  /** Asks for the same two slots whatever the opening; failing those, guesses among the other slots. */
  readonly fixedScript: number;
  /** Asks for the slot that the opening hints at. */
  readonly oracle: number;
}

/** The ceilings, counted over every slot and value. */
export function ceilings(): Ceilings {
  const values = slots[0].values.length;
  const others = slots.length - maxQuestions;
  return {
    answerAtOnce: 1 / values,
    fixedScript: maxQuestions / slots.length + (others / slots.length) * (1 / others) * (1 / values),
    oracle: 1,
  };
}
