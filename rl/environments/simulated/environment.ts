import type { Task } from "../../../data/tasks.js";
import { InputError, randomStream } from "../../../lib/index.js";
import type { Message } from "../../../models/message.js";
import type { Environment, Episode, UserReply } from "../../environment.js";
import type { Speaker } from "../../llm/speaker.js";
import { rewardsFor } from "../../rewards/registry.js";
import type { AskJudge } from "../../rewards/reward.js";
import type { Sandbox } from "../../rewards/sandbox.js";
import { END_SIGNAL, type Persona, userPrompt, userReply } from "./userPrompt.js";

/** What a conversation starts from. */
export type SimulatedTask = Pick<Task, "prompt" | "groundTruth" | "singleTurnPrompt" | "taskDesc"> &
  Partial<Pick<Task, "info">>;

export interface SimulatedOptions {
  readonly train: readonly SimulatedTask[];
  readonly heldOut: readonly SimulatedTask[];
  readonly user: Speaker;
  /** Asked only where a metric needs it. */
  readonly judge?: Speaker;
  /** Default `requester`. */
  readonly persona?: Persona;
  /** Names of the metrics to score, `judge` for the scores of turns among them. */
  readonly metrics: readonly string[];
  /** For the metric `pass_rate`. */
  readonly sandbox?: Sandbox;
}

/** Judges ask with seeds of their own. */
const JUDGE_TURN = 0xffff;

/**
 * Conversations with users that a model plays, scored by judges and by measures that need none. The user is asked with a
 * seed that derives from task, sample and turn, so that the same words get the same answer.
 *
 * @throws InputError for a metric that does not exist, a metric that needs a judge where there is none, or a task of the
 * training set that is held out, too.
 */
export function simulatedEnvironment(options: SimulatedOptions): Environment {
  const { train, heldOut, user, judge, persona = "requester", metrics } = options;
  const rewards = rewardsFor(metrics, options.sandbox);
  const judged = rewards.find(({ isJudged }) => isJudged);
  if (judged && !judge) throw new InputError(`${judged.metrics[0]} needs a judge; name one in environment.judge`);
  checkApart(train, heldOut);

  function begin(task: SimulatedTask, seedOf: (turn: number) => number): Episode {
    const { prompt: opening, singleTurnPrompt: goal, groundTruth: truth, taskDesc: taskDescription } = task;
    const target = { goal, truth, openingLength: opening.length, info: task.info };
    const ask: AskJudge = (question) => judge!.ask({ ...question, seed: seedOf(JUDGE_TURN) });
    return {
      opening,
      async reply(messages) {
        const turn = countTurns(messages);
        const { response } = await user.ask({
          prompt: userPrompt({ persona, taskDescription, goal, messages }),
          about: `reply to turn ${turn}`,
          seed: seedOf(turn),
          ...userReply,
        });
        return asReply(response);
      },
      async score(messages) {
        if (countTurns(messages) === 0) throw new Error("the assistant never spoke: the opening leaves no room");
        const scores = await Promise.all(rewards.map((reward) => reward.score(messages, target, ask)));
        return Object.assign({}, ...scores);
      },
    };
  }

  return {
    name: "simulated",
    metrics: rewards.flatMap((reward) => reward.metrics),
    size: train.length,
    heldOutSize: heldOut.length,
    begin(task, { split, sample, seed }) {
      const isTraining = split === "train";
      const found = (isTraining ? train : heldOut)[task];
      if (!found) throw new RangeError(`simulated: there is no ${split} task ${task}`);
      return begin(found, (turn) => randomStream(seed, Number(isTraining), task, sample, turn).int(2 ** 31));
    },
    takeMetrics: () => ({ ...named("user", user), ...(judge && named("judge", judge)) }),
  };
}

function named(role: string, speaker: Speaker): Record<string, number> {
  return Object.fromEntries(Object.entries(speaker.takeMetrics()).map(([name, value]) => [`${role}/${name}`, value]));
}

function countTurns(messages: readonly Message[]): number {
  return messages.filter(({ role }) => role === "assistant").length;
}

/** The signal ends the conversation; what else was said stays. */
function asReply(response: string): UserReply {
  if (!response.includes(END_SIGNAL)) return { kind: "message", content: response };
  const rest = response.replaceAll(END_SIGNAL, "").trim();
  return { kind: "done", ...(rest !== "" && { content: rest }) };
}

/** @throws InputError where a training task is held out, too. */
function checkApart(train: readonly SimulatedTask[], heldOut: readonly SimulatedTask[]): void {
  const name = ({ prompt, singleTurnPrompt }: SimulatedTask) => JSON.stringify([prompt, singleTurnPrompt]);
  const known = new Set(train.map(name));
  const shared = heldOut.filter((task) => known.has(name(task))).length;
  if (shared > 0) throw new InputError(`${shared} held-out tasks are training tasks, too; split the data anew`);
}
