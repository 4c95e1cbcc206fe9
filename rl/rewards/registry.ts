import { InputError } from "../../lib/index.js";
import { exactAccuracy } from "./accuracy.js";
import { codeReward } from "./codeTests.js";
import { accuracyJudge } from "./judges/accuracy.js";
import { consultationJudge } from "./judges/consultation.js";
import { documentReward } from "./judges/document.js";
import { interactivityJudge } from "./judges/interactivity.js";
import { TURN_SCORES, turnScoreJudge } from "./judges/turnScores.js";
import { leakOf } from "./leak.js";
import { measured, type Reward } from "./reward.js";
import type { Sandbox } from "./sandbox.js";
import { tokenAmount } from "./tokenAmount.js";

/** Every way to score a conversation with a simulated user. */
const rewardsWith = (sandbox?: Sandbox): Reward[] => [
  accuracyJudge,
  documentReward,
  interactivityJudge,
  consultationJudge,
  turnScoreJudge,
  codeReward(sandbox),
  measured("exact_accuracy", (conversation, { truth }) => exactAccuracy(conversation, truth)),
  measured("leak", (conversation, { truth, openingLength }) => leakOf(conversation, truth, { openingLength }).share),
  measured("token_amount", (conversation, { openingLength }) => tokenAmount(conversation, openingLength)),
];

/** The metrics that an outcome with simulated users can be made of; a judge's scores of turns are for credit. */
export const rewardMetrics: readonly string[] = rewardsWith()
  .flatMap(({ metrics }) => metrics)
  .filter((name) => name !== TURN_SCORES);

/**
 * The rewards that these metrics need, each once. `pass_rate` needs a sandbox.
 * @throws InputError for a metric that does not exist.
 */
export function rewardsFor(metrics: readonly string[], sandbox?: Sandbox): Reward[] {
  const unknown = metrics.find((name) => name !== TURN_SCORES && !rewardMetrics.includes(name));
  if (unknown !== undefined) {
    throw new InputError(`there is no metric '${unknown}' for simulated users; there are ${rewardMetrics.join(", ")}`);
  }
  return rewardsWith(sandbox).filter((reward) => reward.metrics.some((name) => metrics.includes(name)));
}
