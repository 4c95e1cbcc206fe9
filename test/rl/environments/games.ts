import type { Message } from "../../../models/index.js";
import type { Environment } from "../../../rl/environment.js";
import { answer, type Split, slots } from "../../../rl/environments/quickstart/game.js";

export const trainCombinations = 154;
export const heldOutCombinations = 38;

/** Every combination of slot, value, hint and opening once: the tasks of both splits. */
export const allTasks: readonly (readonly [task: number, split: Split])[] = [
  ...Array.from({ length: trainCombinations }, (_, task) => [task, "train"] as const),
  ...Array.from({ length: heldOutCombinations }, (_, task) => [task, "held_out"] as const),
];

/** What an assistant says next, from the messages so far. */
export type Player = (messages: readonly Message[]) => string;

/** How games of an environment go. */
export function table(environment: Environment) {
  /** Plays a game to its end. */
  async function play(task: number, split: Split, player: Player) {
    const episode = environment.begin(task, { split, sample: 0, seed: 0 });
    const messages: Message[] = [...episode.opening];
    for (let turn = 0; turn < 8; turn++) {
      messages.push({ role: "assistant", content: player(messages) });
      const reply = await episode.reply(messages);
      if (reply.kind === "done") break;
      messages.push({ role: "user", content: reply.content });
    }
    const { accuracy } = await episode.score(messages);
    return { messages, accuracy, useful: episode.usefulTurn!(messages) };
  }

  async function meanAccuracy(player: Player, tasks = allTasks): Promise<number> {
    let sum = 0;
    for (const [task, split] of tasks) sum += (await play(task, split, player)).accuracy;
    return sum / tasks.length;
  }

  return { play, meanAccuracy };
}

/** Says the lines in their order; a line may depend on what was heard. */
export function script(...lines: (string | Player)[]): Player {
  return (messages) => {
    const line = lines[messages.filter(({ role }) => role === "assistant").length] ?? "help";
    return typeof line === "string" ? line : line(messages);
  };
}

/** The value that a "must" named, or else the guess. */
export const answerHeard =
  (guess: string): Player =>
  (messages) => {
    const certain = messages.find(({ content }) => content.startsWith("must "));
    return answer(certain ? certain.content.slice("must ".length) : guess);
  };

/** The slot that an opening hints at. */
export function hinted([opening]: readonly Message[]): number {
  return slots.findIndex(({ hints }) => hints.some((hint) => opening.content.split(" ").includes(hint)));
}
