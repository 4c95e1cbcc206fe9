import type { Message } from "../models/message.js";

/** What the simulated user does with the assistant's turn: answers, or ends the conversation. */
export type UserReply =
  | { readonly kind: "message"; readonly content: string }
  /** `content` is the user's closing message, if there is one; it goes into the transcript, not to the policy. */
  | { readonly kind: "done"; readonly content?: string };

/** One conversation with one simulated user. */
export interface Episode {
  /** The messages before the policy's first turn: system message (if any) and the user's opening. */
  readonly opening: readonly Message[];
  /**
   * The user's answer to the last message of `messages`, which is the assistant's.
   * @throws when the simulator fails: the trajectory is then marked `failed` and leaves its group.
   */
  reply(messages: readonly Message[]): UserReply | Promise<UserReply>;
  /**
   * Outcome metrics of the finished conversation, by name, before weighting. Throws like `reply`. What a judge thinks of
   * each turn, for `credit.method=judge`, goes by the names `judge/1`, `judge/2`, …, and is not negative.
   */
  score(messages: readonly Message[]): Record<string, number> | Promise<Record<string, number>>;
  /** Which assistant turn truly earned the outcome, where the environment knows it: credit can be scored against it. */
  usefulTurn?(messages: readonly Message[]): number | undefined;
}

/** A family of tasks, each a conversation with a hidden goal. */
export interface Environment {
  readonly name: string;
  /** Names of the outcome metrics that `score` gives; where they are known, a config that names others is refused at once. */
  readonly metrics?: readonly string[];
  /** Number of training tasks; task ids are 0 … size−1 and stable between runs. */
  readonly size: number;
  /** Number of held-out tasks; ids 0 … heldOutSize−1. */
  readonly heldOutSize: number;
  /** Starts conversation `sample` of a task. Any randomness of the user derives from (task, sample, seed) alone. */
  begin(task: number, options: { split: "train" | "held_out"; sample: number; seed: number }): Episode;
  /** What users and judges took since the last time, under `user/NAME` and `judge/NAME`: calls, seconds, tokens, cost. */
  takeMetrics?(): Record<string, number>;
}
