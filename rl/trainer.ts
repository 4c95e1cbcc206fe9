import { randomStream } from "../lib/index.js";
import { type ChatRenderer, cloneParameters, Qwen } from "../models/index.js";
import { needsPrm, type TrainConfig } from "./config.js";
import type { Environment } from "./environment.js";
import { forwardRows, Learner } from "./learner.js";
import {
  type Advantages,
  addMetrics,
  assignCredit,
  logRatios,
  type Outputs,
  policyLoss,
  primeNorm,
  prmLoss,
  type RewardRow,
  type Rewards,
  rloo,
  signAccuracy,
  tokenScores,
  turnRewards,
  turnStatistics,
  weightStatistics,
} from "./objective/index.js";
import { labelOf, outcomeOf, penaltyOf } from "./outcome.js";
import { type Rollout, type RolloutItem, rollout } from "./rollout.js";
import { learningRate } from "./sft.js";
import type { Trajectory } from "./trajectory.js";

/** What one training step did. */
export interface TrainingStep {
  readonly trajectories: readonly Trajectory[];
  /** Per trajectory and turn: the reward that credit assignment gave it. */
  readonly turnRewards: readonly Float64Array[];
  /** Per trajectory and token. */
  readonly advantages: readonly Float64Array[];
  readonly metrics: Readonly<Record<string, number>>;
}

/** Token scores of the process reward model before normalisation, and what they were computed from. */
export interface PrmScores {
  readonly scores: readonly Float64Array[];
  /** Log π_φ / π_ref per token. */
  readonly ratios: readonly Float64Array[];
}

/**
 * Trains a policy by reinforcement learning in conversations. One step: have conversations, score them, update the
 * process reward model on their outcomes, let it credit the turns, update the policy. Both start from the given policy,
 * and a frozen copy of it is the reference of both.
 */
export class Trainer {
  readonly policy: Learner;
  readonly prm: Learner | undefined;
  /** What policy and reward model were at the start; frozen. */
  readonly reference: Qwen;
  readonly #policyLr: (step: number) => number;
  readonly #prmLr: (step: number) => number;

  constructor(
    readonly config: TrainConfig,
    readonly parts: {
      readonly policy: Qwen;
      readonly chat: ChatRenderer;
      readonly environment: Environment;
      /** Default: a frozen copy of the policy as it is. */
      readonly reference?: Qwen;
      /** Default: a copy of the policy as it is. */
      readonly prm?: Qwen;
    },
  ) {
    const { policy } = parts;
    const { microBatchTokens, rollout: sampling, prm, steps } = config;
    const copy = (frozen: boolean) => new Qwen(policy.config, cloneParameters(policy.parameters, { frozen }));
    this.reference = parts.reference ?? copy(true);
    this.prm = needsPrm(config) ? new Learner(parts.prm ?? copy(false), { ...prm, microBatchTokens }) : undefined;
    this.policy = new Learner(policy, { ...config.policy, microBatchTokens, temperature: sampling.temperature });
    this.#policyLr = learningRate(config.policy, steps);
    this.#prmLr = learningRate(prm, steps);
  }

  /** The conversations of training step `step` (1-based): `prompts` tasks, `samples` of each. */
  items(step: number): RolloutItem[] {
    const { prompts, samples } = this.config.rollout;
    const random = randomStream(this.config.seed, step);
    const drawn = new Map<number, number>();
    return Array.from({ length: prompts }, () => random.int(this.parts.environment.size)).flatMap((task) => {
      // A task that comes twice has further samples, not the same ones again.
      const first = drawn.get(task) ?? 0;
      drawn.set(task, first + samples);
      return Array.from({ length: samples }, (_, i) => ({ task, sample: first + i }));
    });
  }

  /** Has conversations with the current policy. */
  rollout(
    items: readonly RolloutItem[],
    options: { split: "train" | "held_out"; step: number; temperature: number },
  ): Promise<Rollout> {
    const { maxTurns, maxTurnTokens, maxTokens } = this.config.rollout;
    const { chat, environment } = this.parts;
    return rollout({
      ...{ chat, environment, items, maxTurns, maxTurnTokens, maxTokens },
      ...options,
      policy: this.policy.model,
      seed: this.config.seed,
      // Held-out conversations have step numbers of their own, and with them noise of their own.
      step: options.split === "train" ? options.step : options.step + 2 ** 30,
    });
  }

  /** One whole training step, 1-based. */
  async step(step: number): Promise<TrainingStep> {
    const { config } = this;
    const metrics: Record<string, number> = {};
    const lap = stopwatch(metrics);

    const { temperature } = config.rollout;
    const { trajectories, drawn, seconds } = await this.rollout(this.items(step), {
      split: "train",
      step,
      temperature,
    });
    metrics["rollout/tokens_per_s"] = drawn / seconds;
    metrics["rollout/tokens"] = drawn;
    lap("rollout");

    const dealt =
      config.control === "permuted_outcomes" ? permuteOutcomes(trajectories, config.seed, step) : trajectories;
    const reference = await forwardRows(this.reference, trajectories, config);
    lap("reference");

    const scores = await this.#learnRewards(dealt, reference, step, metrics);
    lap("prm");

    const rows = dealt.map((trajectory, i) => rewardRow(trajectory, config, scores?.[i]));
    const rewards = assignCredit(rows, config.credit);
    const result = rloo(rows, rewards, config.advantage);
    Object.assign(metrics, creditMetrics(rows, rewards, result));

    if (step > config.prm.leadSteps || !this.prm)
      await this.#learnPolicy(trajectories, reference, rewards, result, step, metrics);
    lap("policy");

    Object.assign(metrics, rolloutMetrics(trajectories, config));
    return { trajectories, turnRewards: turnRewards(rows, rewards), advantages: result.advantages, metrics };
  }

  /** Updates the process reward model on the outcomes, then scores every token with it: normalised over the batch. */
  async #learnRewards(
    trajectories: readonly Trajectory[],
    reference: readonly Outputs[],
    step: number,
    metrics: Record<string, number>,
  ): Promise<readonly Float64Array[] | undefined> {
    const { prm, config } = this;
    if (!prm) return undefined;
    const rows = trajectories
      .map((trajectory, i) => ({
        ...trajectory,
        referenceLogprobs: reference[i].logprobs,
        label: labelOf(trajectory, config.outcome),
      }))
      .filter(({ failure, turns }) => failure === undefined && turns.length > 0);
    const loss = prmLoss(config.prm);
    const parts = miniBatches(rows, config.prm.miniBatch);
    for (const part of parts) {
      addMeans(metrics, "prm", await prm.forwardBackward(part, loss), parts.length);
      const { gradNorm, skipped } = await prm.optimStep({ lr: this.#prmLr(step) });
      addMeans(metrics, "prm", { grad_norm: gradNorm, skipped: Number(skipped) }, parts.length);
    }
    const { scores, ratios } = await this.scorePrm(trajectories, reference);
    const isDone = trajectories.map(({ failure }) => failure === undefined);
    // What a failed conversation scores must not scale the others.
    const { scores: normalised, divisor } = primeNorm(
      scores.map((score, i) => (isDone[i] ? score : new Float64Array(score.length))),
    );
    metrics["prm/divisor"] = divisor;
    metrics["prm/accuracy"] = signAccuracy(
      ratios.filter((_, i) => isDone[i]).map((ratio) => ratio.reduce((sum, value) => sum + value, 0)),
      trajectories.filter((_, i) => isDone[i]).map((trajectory) => labelOf(trajectory, config.outcome)),
    );
    return normalised;
  }

  /** What the process reward model says of every token, before normalisation. */
  async scorePrm(trajectories: readonly Trajectory[], reference: readonly Outputs[]): Promise<PrmScores> {
    const outputs = await forwardRows(this.prm!.model, trajectories, this.config);
    const ratios = trajectories.map(({ turns }, i) => logRatios(outputs[i].logprobs, reference[i].logprobs, turns));
    return { ratios, scores: trajectories.map(({ turns }, i) => tokenScores(ratios[i], turns, this.config.prm)) };
  }

  async #learnPolicy(
    trajectories: readonly Trajectory[],
    reference: readonly Outputs[],
    rewards: Rewards,
    { advantages }: Advantages,
    step: number,
    metrics: Record<string, number>,
  ): Promise<void> {
    const { policy, rollout: sampling } = this.config;
    const rows = trajectories
      .map((trajectory, i) => ({
        ...trajectory,
        oldLogprobs: trajectory.logprobs,
        referenceLogprobs: reference[i].logprobs,
        advantages: advantages[i],
      }))
      .filter((_, i) => !rewards.excluded[i]);
    const loss = policyLoss({
      ...policy,
      normLength: sampling.maxTokens,
      kl: { coefficient: policy.kl, estimator: policy.klEstimator },
      entropyCoefficient: policy.entropy,
    });
    const parts = Array.from({ length: policy.epochs }, () => miniBatches(rows, policy.miniBatch)).flat();
    for (const part of parts) {
      addMeans(metrics, "policy", await this.policy.forwardBackward(part, loss), parts.length);
      const { gradNorm, skipped } = await this.policy.optimStep({ lr: this.#policyLr(step) });
      addMeans(metrics, "policy", { grad_norm: gradNorm, skipped: Number(skipped) }, parts.length);
    }
  }
}

/** What credit and advantages see of a trajectory. */
export function rewardRow(
  trajectory: Trajectory,
  config: Pick<TrainConfig, "outcome">,
  scores?: Float64Array,
): RewardRow {
  return {
    group: trajectory.task,
    tokens: trajectory.tokens.length,
    turns: trajectory.turns,
    outcome: outcomeOf(trajectory, config.outcome),
    lengthPenalty: penaltyOf(trajectory, config.outcome),
    scores,
    failed: trajectory.failure !== undefined,
  };
}

/** Deals the metrics of a batch to its trajectories at random; those that failed take no part. */
function permuteOutcomes(trajectories: readonly Trajectory[], seed: number, step: number): Trajectory[] {
  const dealt = randomStream(seed, step, 1).shuffle(
    trajectories.filter(({ failure }) => failure === undefined).map(({ metrics }) => metrics),
  );
  return trajectories.map((trajectory) =>
    trajectory.failure === undefined ? { ...trajectory, metrics: dealt.pop()! } : trajectory,
  );
}

/** Cuts rows into parts of `size`, in order; a rest smaller than half of that joins the last part. */
function miniBatches<T>(rows: readonly T[], size: number): T[][] {
  const count = Math.max(1, Math.round(rows.length / size));
  return Array.from({ length: count }, (_, i) =>
    rows.slice(i * size, i === count - 1 ? undefined : (i + 1) * size),
  ).filter((part) => part.length > 0);
}

function addMeans(
  total: Record<string, number>,
  group: string,
  part: Readonly<Record<string, number>>,
  parts: number,
): void {
  const named = Object.entries(part).map(([name, value]) => [
    `${group}/${name.replace(`${group}_`, "")}`,
    value / parts,
  ]);
  addMetrics(total, Object.fromEntries(named));
}

function creditMetrics(rows: readonly RewardRow[], rewards: Rewards, { counts }: Advantages): Record<string, number> {
  const perTurn = turnRewards(rows, rewards).filter((_, i) => !rewards.excluded[i]);
  const metrics: Record<string, number> = {};
  const longest = Math.max(0, ...perTurn.map((turns) => turns.length));
  for (let k = 0; k < longest; k++) {
    const reached = perTurn.filter((turns) => turns.length > k);
    metrics[`turn_reward/${k + 1}`] = reached.reduce((sum, turns) => sum + turns[k], 0) / reached.length;
  }
  if (rewards.weights) {
    const { entropy, effectiveTurns } = weightStatistics(rewards.weights.filter((weights) => weights.length > 0));
    metrics["weights/entropy"] = entropy;
    metrics["weights/effective_turns"] = effectiveTurns;
  }
  const { sum, variance } = turnStatistics(perTurn);
  metrics["turns/reward_sum"] = sum;
  metrics["turns/reward_variance"] = variance;
  for (const [name, value] of Object.entries(counts)) metrics[`rows/${snakeCase(name)}`] = value;
  return metrics;
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Outcome and shape of conversations, over those that did not fail. */
export function rolloutMetrics(
  trajectories: readonly Trajectory[],
  { outcome }: Pick<TrainConfig, "outcome">,
): Record<string, number> {
  const done = trajectories.filter(({ failure }) => failure === undefined);
  const mean = (value: (trajectory: Trajectory) => number) =>
    done.length > 0 ? done.reduce((sum, trajectory) => sum + value(trajectory), 0) / done.length : Number.NaN;
  const names = new Set(done.flatMap(({ metrics }) => Object.keys(metrics)));
  return {
    "outcome/mean": mean((trajectory) => outcomeOf(trajectory, outcome) + penaltyOf(trajectory, outcome)),
    ...Object.fromEntries([...names].map((name) => [`outcome/${name}`, mean(({ metrics }) => metrics[name] ?? 0)])),
    "rollout/turns": mean(({ turns }) => turns.length),
    "rollout/truncated": mean(({ turns }) => Number(turns.some(({ stop }) => stop !== "stop"))),
  };
}

/** Writes `time/NAME`, seconds since the last lap. */
function stopwatch(metrics: Record<string, number>): (name: string) => void {
  let last = performance.now();
  return (name) => {
    const now = performance.now();
    metrics[`time/${name}`] = (now - last) / 1000;
    last = now;
  };
}
