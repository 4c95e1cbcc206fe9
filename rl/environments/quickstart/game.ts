import { randomStream } from "../../../lib/index.js";
import type { Message } from "../../../models/index.js";
import type { Environment, Episode } from "../../environment.js";

/*
 * A conversation game in which the policy must ask before it can answer. The user needs one of six things chosen; the
 * opening hints at which. Asking for that thing gets "must VALUE", the answer; asking for another gets "maybe VALUE", a
 * true value of that thing that is of no use. At most two questions, then the answer: "so pick VALUE".
 */

/** What can be asked for, the values it can have, and the words by which an opening hints at it. */
export const slots = [
  { name: "colour", values: ["red", "blue", "green", "yellow"], hints: ["paint", "shade"] },
  { name: "size", values: ["tiny", "small", "large", "huge"], hints: ["shirt", "box"] },
  { name: "city", values: ["paris", "tokyo", "cairo", "lima"], hints: ["trip", "flight"] },
  { name: "meal", values: ["soup", "pasta", "salad", "rice"], hints: ["lunch", "dinner"] },
  { name: "music", values: ["jazz", "rock", "folk", "opera"], hints: ["concert", "party"] },
  { name: "sport", values: ["tennis", "golf", "hockey", "rugby"], hints: ["training", "match"] },
] as const;

const openings = ["help with HINT", "my HINT please", "about HINT now", "HINT problem"] as const;

export const maxQuestions = 2;
export const question = (slot: number): string => `which ${slots[slot].name} ?`;
export const answer = (value: string): string => `so pick ${value}`;
const certain = (value: string): string => `must ${value}`;
const irrelevant = (value: string): string => `maybe ${value}`;

/** Every word of the game, in a fixed order; the tokenizer's vocabulary. */
export const words: readonly string[] = [
  ...new Set(
    [
      ...openings.map((opening) => opening.replace("HINT", "")),
      ...slots.flatMap(({ name, values, hints }) => [name, ...values, ...hints]),
      question(0),
      answer(""),
      certain(""),
      irrelevant(""),
    ]
      .flatMap((text) => text.split(" "))
      .filter((word) => word !== ""),
  ),
];

/** One game: the slot that matters, what every slot's value is, and how the user opens. */
export interface Game {
  readonly slot: number;
  /** Value of each slot, by index; values[slot] is the answer. */
  readonly values: readonly number[];
  readonly opening: string;
}

/** Combinations of slot, its value, hint and opening. */
const combinations = slots.flatMap((_, slot) =>
  [0, 1, 2, 3].flatMap((value) =>
    [0, 1].flatMap((hint) =>
      openings.map((opening) => ({ slot, value, opening: opening.replace("HINT", slots[slot].hints[hint]) })),
    ),
  ),
);

const GAMES_SEED = 20260323;
const HELD_OUT_SHARE = 0.2;
const shuffled = randomStream(GAMES_SEED, 0).shuffle([...combinations]);
const heldOutCount = Math.round(shuffled.length * HELD_OUT_SHARE);
const bySplit = { held_out: shuffled.slice(0, heldOutCount), train: shuffled.slice(heldOutCount) };

/** A fifth of the combinations never occurs in training; every word does. */
export type Split = keyof typeof bySplit;

/** Game `task` of a split: its combination in turn, the other slots' values at random from the task's own stream. */
export function gameOf(task: number, split: Split): Game {
  const list = bySplit[split];
  const { slot, value, opening } = list[task % list.length];
  const random = randomStream(GAMES_SEED, split === "train" ? 1 : 2, task);
  return { slot, opening, values: slots.map((_, s) => (s === slot ? value : random.int(4))) };
}

/** What the assistant said: the slot it asked for, the value it picked, or neither. */
export function readTurn(text: string): { readonly asked: number } | { readonly picked: string } | undefined {
  const asked = slots.findIndex((_, slot) => question(slot) === text);
  if (asked >= 0) return { asked };
  const picked = slots.flatMap(({ values }) => values).find((value) => answer(value) === text);
  return picked ? { picked } : undefined;
}

/** The user's reply to a question. */
export function replyTo(game: Game, slot: number): string {
  const value = slots[slot].values[game.values[slot]];
  return slot === game.slot ? certain(value) : irrelevant(value);
}

/** Index of the assistant turn that asked for the slot that matters, which is what made the answer known. */
export function usefulTurn(game: Game, messages: readonly Message[]): number | undefined {
  const turns = assistantTurns(messages).map(readTurn);
  const index = turns.findIndex((turn) => turn && "asked" in turn && turn.asked === game.slot);
  return index >= 0 ? index : undefined;
}

/** The game as an environment; its metric is `accuracy`, 1 for the right answer. */
export function quickstartEnvironment({ heldOutGames = 512 } = {}): Environment {
  return gameEnvironment("quickstart", heldOutGames, (game, turns) => {
    const turn = readTurn(turns[turns.length - 1]);
    return turn && "asked" in turn && turns.length <= maxQuestions ? replyTo(game, turn.asked) : undefined;
  });
}

/**
 * An environment of these games: `reply` is the user's answer to the assistant's turns so far, or undefined where the
 * game ends. Whatever the rules, the metric is `accuracy`, 1 where the last turn picks the right value.
 */
export function gameEnvironment(
  name: string,
  heldOutGames: number,
  reply: (game: Game, turns: readonly string[]) => string | undefined,
): Environment {
  return {
    name,
    size: bySplit.train.length * 4 ** (slots.length - 1),
    heldOutSize: heldOutGames,
    metrics: ["accuracy"],
    begin: (task, { split }) => episode(gameOf(task, split), reply),
  };
}

function episode(game: Game, reply: Parameters<typeof gameEnvironment>[2]): Episode {
  return {
    opening: [{ role: "user", content: game.opening }],
    reply(messages) {
      const content = reply(game, assistantTurns(messages));
      return content === undefined ? { kind: "done" } : { kind: "message", content };
    },
    usefulTurn: (messages) => usefulTurn(game, messages),
    score(messages) {
      const last = readTurn(assistantTurns(messages).at(-1) ?? "");
      const picked = last && "picked" in last ? last.picked : undefined;
      return { accuracy: picked === slots[game.slot].values[game.values[game.slot]] ? 1 : 0 };
    },
  };
}

function assistantTurns(messages: readonly Message[]): string[] {
  return messages.filter(({ role }) => role === "assistant").map(({ content }) => content);
}
