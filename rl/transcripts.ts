import type { TrainConfig } from "./config.js";
import { criticValues } from "./critic.js";
import { forwardRows } from "./learner.js";
import { assignCredit, primeNorm, turnRewards } from "./objective/index.js";
import { outcomeOf, penaltyOf } from "./outcome.js";
import type { Transcript } from "./report/transcript.js";
import { rewardRow, type Trainer, type TrainingStep } from "./trainer.js";
import type { Trajectory } from "./trajectory.js";

interface TurnNotes {
  readonly rewards?: ArrayLike<number>;
  readonly advantages?: ArrayLike<number>;
}

/** A conversation for people to read, with what each assistant turn earned. */
function transcript(
  { outcome }: Pick<TrainConfig, "outcome">,
  trajectory: Trajectory,
  step: number,
  label: string | undefined,
  notes: TurnNotes,
): Transcript {
  const { task, sample, metrics, stop, turns, usefulTurn, failure } = trajectory;
  let k = -1;
  return {
    step,
    label,
    task,
    sample,
    outcome: failure === undefined ? outcomeOf(trajectory, outcome) + penaltyOf(trajectory, outcome) : null,
    metrics,
    stop,
    messages: trajectory.messages.map(({ role, content }) => {
      if (role !== "assistant") return { role, content };
      k++;
      return {
        role,
        content,
        reward: notes.rewards?.[k],
        advantage: notes.advantages?.[turns[k].start],
        stop: turns[k].stop,
        ...(usefulTurn === k && { useful: true }),
      };
    }),
  };
}

/** A conversation for people to read, with nothing on what its turns earned. */
export function plainTranscript(
  trajectory: Trajectory,
  config: Pick<TrainConfig, "outcome">,
  label?: string,
): Transcript {
  return transcript(config, trajectory, 0, label, {});
}

/** Some of a step's conversations: the best and the worst of its first groups. */
export function trainingTranscripts(trainer: Trainer, step: number, result: TrainingStep, groups = 3): Transcript[] {
  const { prompts, samples } = trainer.config.rollout;
  return Array.from({ length: Math.min(groups, prompts) }, (_, g) => {
    const members = Array.from({ length: samples }, (_, i) => g * samples + i);
    const value = (i: number) => result.turnRewards[i].reduce((a, b) => a + b, 0);
    const sorted = members.sort((a, b) => value(b) - value(a));
    return [...new Set([sorted[0], sorted.at(-1)!])].map((i) =>
      transcript(trainer.config, result.trajectories[i], step, undefined, {
        rewards: result.turnRewards[i],
        advantages: result.advantages[i],
      }),
    );
  }).flat();
}

/** Some held-out conversations, credited as if they were a batch of their own. */
export async function heldOutTranscripts(
  trainer: Trainer,
  step: number,
  trajectories: readonly Trajectory[],
  count = 6,
): Promise<Transcript[]> {
  const chosen = trajectories.slice(0, count);
  const { config } = trainer;
  const scores = trainer.prm
    ? primeNorm((await trainer.scorePrm(chosen, await forwardRows(trainer.reference, chosen, config))).scores).scores
    : undefined;
  const values = trainer.critic && (await criticValues(trainer.critic, chosen));
  const rows = chosen.map((trajectory, i) => rewardRow(trajectory, config, scores?.[i], values?.[i]));
  const rewards = turnRewards(rows, assignCredit(rows, config.credit));
  return chosen.map((trajectory, i) => transcript(config, trajectory, step, "held-out", { rewards: rewards[i] }));
}
