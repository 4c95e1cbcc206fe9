import type { Message } from "../../models/message.js";
import type { Question } from "../llm/question.js";

/** What a conversation is measured against; the assistant sees none of it. */
export interface Target {
  /** The whole request, or the whole case, that the user came with. */
  readonly goal: string;
  /** The reference answer, document, or diagnosis and recommendation. */
  readonly truth: string;
  /** Messages before the assistant's first turn. */
  readonly openingLength: number;
  /** The source's other columns. */
  readonly info?: Readonly<Record<string, unknown>>;
}

/** A measure that needs no judge. */
export type Measure = (conversation: readonly Message[], target: Target) => number;

/** Asks the judge. @throws CallError where it gives no usable reply: the conversation has failed, it has not scored 0. */
export type AskJudge = <T>(question: Omit<Question<T>, "seed">) => Promise<T>;

/** One way to score a finished conversation, and the metrics that come of it. */
export interface Reward {
  readonly metrics: readonly string[];
  readonly isJudged: boolean;
  score(conversation: readonly Message[], target: Target, ask: AskJudge): Promise<Record<string, number>>;
}

/** A measure as a reward of one metric. */
export function measured(name: string, measure: Measure): Reward {
  return {
    metrics: [name],
    isJudged: false,
    score: async (conversation, target) => ({ [name]: measure(conversation, target) }),
  };
}
