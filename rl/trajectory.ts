import type { Message } from "../models/message.js";

/** How a turn or a whole conversation came to its end. */
export type StopReason =
  /** The policy ended its turn with an end-of-turn token. */
  | "stop"
  /** The turn reached its token limit; the policy was cut off. */
  | "turn_length"
  /** The conversation reached its token limit. */
  | "context_length"
  /** The conversation reached its limit of assistant turns. */
  | "max_turns"
  /** The simulated user ended the conversation. */
  | "user_done"
  /** The simulated user, a judge or a metric failed; see `failure`. */
  | "failed";

/** One assistant turn: tokens [start, end) of the trajectory, all of them sampled by the policy. */
export interface Turn {
  readonly start: number;
  readonly end: number;
  readonly stop: StopReason;
}

/**
 * One conversation, from the prompt to its outcome: the single record from which batches, advantages, transcripts and
 * dashboards derive. Token-level arrays have one entry per token of the whole conversation, prompt included.
 */
export interface Trajectory {
  /** Stable id of the task (the dataset row); trajectories with one task id form a group. */
  readonly task: number;
  /** Which of the group's samples this is, from 0. */
  readonly sample: number;
  readonly messages: readonly Message[];
  readonly tokens: Int32Array;
  /** 1 where the policy sampled the token, 0 for prompt, user and template tokens. */
  readonly sampled: Uint8Array;
  /** Natural-log probability of each sampled token under the policy that drew it, at the sampling temperature; 0 elsewhere. */
  readonly logprobs: Float32Array;
  /** Assistant turns in order; their token ranges are exactly the runs of ones in `sampled`. */
  readonly turns: readonly Turn[];
  /** Raw outcome metrics by name, before weighting. Empty when the conversation failed. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly stop: StopReason;
  /** Index of the turn that truly earned the outcome, where the environment knows it. */
  readonly usefulTurn?: number;
  /** Why the trajectory has no usable outcome. Such a trajectory leaves its group and is counted. */
  readonly failure?: string;
}
