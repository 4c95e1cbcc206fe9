import { InputError } from "../../lib/index.js";
import { accuracyJudge } from "./judges/accuracy.js";
import { consultationJudge } from "./judges/consultation.js";
import { documentReward } from "./judges/document.js";
import { interactivityJudge } from "./judges/interactivity.js";
import { turnScoreJudge } from "./judges/turnScores.js";
import { measured, type Reward } from "./reward.js";
import { tokenAmount } from "./tokenAmount.js";

/** Every way to score a conversation with a simulated user. */
const rewards: readonly Reward[] = [
  accuracyJudge,
  documentReward,
  interactivityJudge,
  consultationJudge,
  turnScoreJudge,
  measured("token_amount", (conversation, { openingLength }) => tokenAmount(conversation, openingLength)),
];

/** The metrics that conversations with simulated users can be scored by. */
export const rewardMetrics: readonly string[] = rewards.flatMap(({ metrics }) => metrics);

/** The rewards that these metrics need, each once. @throws InputError for a metric that does not exist. */
export function rewardsFor(metrics: readonly string[]): Reward[] {
  const unknown = metrics.find((name) => !rewardMetrics.includes(name));
  if (unknown !== undefined) {
    throw new InputError(`there is no metric '${unknown}' for simulated users; there are ${rewardMetrics.join(", ")}`);
  }
  return rewards.filter((reward) => reward.metrics.some((name) => metrics.includes(name)));
}
