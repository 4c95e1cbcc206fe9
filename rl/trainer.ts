import { randomStream } from "../lib/index.js";
import { type ChatRenderer, cloneParameters, Qwen } from "../models/index.js";
import { needsPrm, type TrainConfig } from "./config.js";
import { type CriticModel, criticReturns, criticValues, learnValues, openCritic } from "./critic.js";
import type { Environment } from "./environment.js";
import { checkFailures } from "./failures.js";
import { forwardRows, Learner } from "./learner.js";
import {
  type Advantages,
  assignCredit,
  completeTurns,
  estimateAdvantages,
  importanceWeights,
  informativeGroups,
  type KlRewardOptions,
  klPenalty,
  nextKlCoefficient,
  type Outputs,
  policyLoss,
  type RewardRow,
  type Rewards,
  turnRewards,
} from "./objective/index.js";
import { judgeScoresOf, outcomeOf, penaltyOf } from "./outcome.js";
import { learnRewards, type PrmScores, scoreTokens } from "./rewardModel.js";
import { type Rollout, type RolloutItem, rollout } from "./rollout.js";
import { learningRate } from "./sft.js";
import { addMeans, creditMetrics, miniBatches, rolloutMetrics, stopwatch } from "./stepMetrics.js";
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

/**
 * Trains a policy by reinforcement learning in conversations. One step: have conversations, score them, update the
 * process reward model on their outcomes, let it credit the turns, update the policy. Both start from the given policy,
 * and a frozen copy of it is the reference of both; so does the critic, where the config needs one.
 */
export class Trainer {
  readonly policy: Learner;
  readonly prm: Learner | undefined;
  readonly critic: Learner | undefined;
  /** What policy and reward model were at the start; frozen. */
  readonly reference: Qwen;
  /** Coefficient of the KL divergence in the reward, which an adaptive controller moves. */
  klCoefficient: number;
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
      /** Default: a copy of the policy as it is, with a head whose values are 0. */
      readonly critic?: CriticModel;
      /** Default: the config's. */
      readonly klCoefficient?: number;
    },
  ) {
    const { policy } = parts;
    const { microBatchTokens, rollout: sampling, prm, steps } = config;
    const copy = (frozen: boolean) => new Qwen(policy.config, cloneParameters(policy.parameters, { frozen }));
    this.reference = parts.reference ?? copy(true);
    this.prm = needsPrm(config) ? new Learner(parts.prm ?? copy(false), { ...prm, microBatchTokens }) : undefined;
    this.critic = openCritic(config, parts.critic, () => copy(false));
    this.policy = new Learner(policy, { ...config.policy, microBatchTokens, temperature: sampling.temperature });
    this.klCoefficient = parts.klCoefficient ?? config.policy.klReward.coefficient;
    this.#policyLr = learningRate(config.policy, steps);
    this.#prmLr = learningRate(prm, steps);
  }

  /**
   * The conversations of training step `step` (1-based): `prompts` tasks, `samples` of each; those of a later round where
   * the first ones' groups were dropped.
   */
  items(step: number, round = 0): RolloutItem[] {
    const { prompts, samples } = this.config.rollout;
    const drawn = new Map<number, number>();
    const draw = (random: ReturnType<typeof randomStream>) =>
      Array.from({ length: prompts }, () => random.int(this.parts.environment.size)).flatMap((task) => {
        // A task that comes twice has further samples, not the same ones again.
        const first = drawn.get(task) ?? 0;
        drawn.set(task, first + samples);
        return Array.from({ length: samples }, (_, i) => ({ task, sample: first + i }));
      });
    let items = draw(randomStream(this.config.seed, step));
    for (let later = 1; later <= round; later++) items = draw(randomStream(this.config.seed, step, 2, later));
    return items;
  }

  /** Has conversations with the current policy. @throws InputError where more of them fail than the config allows. */
  async rollout(
    items: readonly RolloutItem[],
    options: { split: "train" | "held_out"; step: number; temperature: number },
  ): Promise<Rollout> {
    const { chat, environment } = this.parts;
    const result = await rollout({
      ...this.config.rollout,
      ...{ chat, environment, items },
      ...options,
      policy: this.policy.model,
      seed: this.config.seed,
      // Held-out conversations have step numbers of their own, and with them noise of their own.
      step: options.split === "train" ? options.step : options.step + HELD_OUT_STEP,
    });
    checkFailures(result.trajectories, this.config.rollout.maxFailures);
    return result;
  }

  /** One whole training step, 1-based. */
  async step(step: number): Promise<TrainingStep> {
    const { config } = this;
    const metrics: Record<string, number> = {};
    const lap = stopwatch(metrics);

    const { trajectories, sampled } = await this.#sample(step, metrics);
    const baselines =
      config.advantage.estimator === "remax" ? await this.#greedyRewards(trajectories, step) : undefined;
    lap("rollout");

    const dealt =
      config.control === "permuted_outcomes" ? permuteOutcomes(trajectories, config.seed, step) : trajectories;
    const reference = await forwardRows(this.reference, trajectories, config);
    lap("reference");

    const lr = this.#prmLr(step);
    const scores = this.prm && (await learnRewards(this.prm, config, { trajectories: dealt, reference, lr }, metrics));
    lap("prm");

    const values = this.critic && (await criticValues(this.critic, trajectories));
    const rows = dealt.map((trajectory, i) => {
      const row = rewardRow(trajectory, config, scores?.[i], values?.[i]);
      return baselines && !baselines.has(row.group) ? { ...row, failed: true } : row;
    });
    const credit = assignCredit(rows, { ...config.credit, noise: [config.seed, step] });
    const rewards = this.#penaliseKl(rows, credit, trajectories, reference, metrics);
    const result = estimateAdvantages(rows, rewards, config.advantage, { values, baselines });
    Object.assign(metrics, creditMetrics(rows, rewards, result));

    const isLeading = (this.prm && step <= config.prm.leadSteps) || (this.critic && step <= config.critic.leadSteps);
    if (!isLeading) await this.#learnPolicy(trajectories, reference, rewards, result, step, metrics);
    lap("policy");

    if (this.critic && values) {
      const isExcluded = (i: number) => rewards.excluded[i] !== undefined;
      const returns = criticReturns(config, rows, result.returns);
      await learnValues(this.critic, config, { trajectories, values, returns, isExcluded, step }, metrics);
      lap("critic");
    }

    Object.assign(metrics, rolloutMetrics(sampled, config), this.parts.environment.takeMetrics?.());
    return { trajectories, turnRewards: turnRewards(rows, rewards), advantages: result.advantages, metrics };
  }

  /**
   * The step's conversations, and all that were had for them. With dynamic sampling, groups that teach nothing are dropped
   * and others sampled in their place; where the rounds run out, dropped ones fill the batch up again.
   */
  async #sample(
    step: number,
    metrics: Record<string, number>,
  ): Promise<{ trajectories: readonly Trajectory[]; sampled: readonly Trajectory[] }> {
    const { temperature, prompts, dynamicSampling, maxRounds } = this.config.rollout;
    const [kept, dropped]: Trajectory[][][] = [[], []];
    let [tokens, time] = [0, 0];
    for (let round = 0; round < (dynamicSampling ? maxRounds : 1) && kept.length < prompts; round++) {
      const { trajectories, drawn, seconds } = await this.rollout(this.items(step, round), {
        split: "train",
        step,
        temperature,
      });
      tokens += drawn;
      time += seconds;
      if (dynamicSampling) metrics["rollout/rounds"] = round + 1;
      for (const group of this.#groups(trajectories)) {
        const isUseful =
          !dynamicSampling || informativeGroups(group.map((each) => rewardRow(each, this.config))).size > 0;
        (isUseful ? kept : dropped).push(group);
      }
    }
    metrics["rollout/tokens_per_s"] = tokens / time;
    metrics["rollout/tokens"] = tokens;
    if (dynamicSampling) metrics["rollout/dropped_groups"] = dropped.length;
    return {
      trajectories: [...kept, ...dropped].slice(0, prompts).flat(),
      sampled: [...kept, ...dropped].flat(),
    };
  }

  /** Runs of `samples` conversations, as they were asked for. */
  #groups(trajectories: readonly Trajectory[]): Trajectory[][] {
    const { prompts, samples } = this.config.rollout;
    return Array.from({ length: prompts }, (_, g) => trajectories.slice(g * samples, (g + 1) * samples));
  }

  /** The whole reward of one greedy conversation for each task; a task whose conversation failed has none. */
  async #greedyRewards(trajectories: readonly Trajectory[], step: number): Promise<Map<number, number>> {
    const items = [...new Set(trajectories.map(({ task }) => task))].map((task) => ({ task, sample: GREEDY_SAMPLE }));
    const greedy = await this.rollout(items, { split: "train", step, temperature: 0 });
    const { outcome } = this.config;
    const rewards = greedy.trajectories.map(
      (each) => [each.task, outcomeOf(each, outcome) + penaltyOf(each, outcome)] as const,
    );
    return new Map(rewards.filter(([, reward]) => Number.isFinite(reward)));
  }

  /** Rewards less the KL divergence from the reference, and the controller's next coefficient. */
  #penaliseKl(
    rows: readonly RewardRow[],
    rewards: Rewards,
    trajectories: readonly Trajectory[],
    reference: readonly Outputs[],
    metrics: Record<string, number>,
  ): Rewards {
    const { klReward } = this.config.policy;
    if (klReward.coefficient === 0) return rewards;
    const result = klPenalty(
      rows,
      rewards,
      trajectories.map(({ logprobs }) => logprobs),
      reference.map(({ logprobs }) => logprobs),
      { coefficient: this.klCoefficient, estimator: klReward.estimator, placement: klPlacement(this.config) },
    );
    metrics["reward/kl"] = result.kl;
    metrics["reward/kl_coefficient"] = this.klCoefficient;
    this.klCoefficient = nextKlCoefficient(this.klCoefficient, result.kl, rows.length, klReward);
    return result.rewards;
  }

  /** What the process reward model says of every token, before normalisation. */
  scorePrm(trajectories: readonly Trajectory[], reference: readonly Outputs[]): Promise<PrmScores> {
    return scoreTokens(this.prm!.model, trajectories, reference, this.config);
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
    const own = policy.importance.level === "none" ? undefined : await this.policy.forward(trajectories);
    const rows = trajectories
      .map((trajectory, i) => ({
        ...trajectory,
        turns: policy.maskTruncated ? completeTurns(trajectory.turns) : trajectory.turns,
        oldLogprobs: own ? own[i].logprobs : trajectory.logprobs,
        referenceLogprobs: reference[i].logprobs,
        advantages: advantages[i],
        importance: own && this.#importance(own[i], trajectory, metrics),
      }))
      .filter(({ turns }, i) => !rewards.excluded[i] && turns.length > 0);
    if (policy.maskTruncated) {
      const masked = trajectories.map(({ turns }) => turns.length - completeTurns(turns).length);
      metrics["policy/masked_turns"] = masked.reduce((a, b) => a + b, 0);
    }
    const loss = policyLoss({
      ...policy,
      seed: step,
      normLength: sampling.maxTokens,
      kl: { coefficient: policy.kl, estimator: policy.klEstimator },
      entropyCoefficient: policy.entropy,
    });
    const parts = Array.from({ length: policy.epochs }, () => miniBatches(rows, policy.miniBatch)).flat();
    for (const part of parts) {
      const { ratio_excess: excess, ...learned } = await this.policy.forwardBackward(part, loss);
      const ratio = 1 + excess;
      addMeans(metrics, "policy", { ...learned, ratio }, parts.length);
      // No weight has changed yet: anything but 1 and 0 says that rollout and trainer compute different log-probs.
      if (part === parts[0])
        addMeans(metrics, "policy", { first_ratio: ratio, first_off_policy: learned.off_policy }, 1);
      const { gradNorm, skipped } = await this.policy.optimStep({ lr: this.#policyLr(step) });
      addMeans(metrics, "policy", { grad_norm: gradNorm, skipped: Number(skipped) }, parts.length);
    }
  }

  /** Corrections of a row for the sampler; counts the tokens whose ratio was bounded. */
  #importance(
    { logprobs }: Outputs,
    trajectory: Trajectory,
    metrics: Record<string, number>,
  ): Float64Array | undefined {
    const { level, ...bounds } = this.config.policy.importance;
    if (level === "none") return undefined;
    const { weights, bounded } = importanceWeights(logprobs, trajectory.logprobs, trajectory.turns, {
      level,
      ...bounds,
    });
    metrics["policy/importance_bounded"] = (metrics["policy/importance_bounded"] ?? 0) + bounded;
    return weights;
  }
}

/** Added to the step number of held-out conversations. */
export const HELD_OUT_STEP = 2 ** 30;

/** The sample number of greedy conversations, which no other has: user and noise of their own. */
const GREEDY_SAMPLE = 0xffff;

/** Where the KL in the reward stands: with the rewards that the estimator compares it with. */
function klPlacement({ credit, advantage }: TrainConfig): KlRewardOptions["placement"] {
  const isTokenwise =
    ["ppo", "reinforce_plus_plus", "remax"].includes(advantage.estimator) || ["prime", "value"].includes(credit.method);
  if (isTokenwise) return "token";
  return credit.method === "shared" ? "conversation" : "turn";
}

/** What credit and advantages see of a trajectory. */
export function rewardRow(
  trajectory: Trajectory,
  config: Pick<TrainConfig, "outcome" | "credit">,
  scores?: Float64Array,
  values?: Float64Array,
): RewardRow {
  const judgeScores = config.credit.method === "judge" ? judgeScoresOf(trajectory) : undefined;
  return {
    group: trajectory.task,
    sample: trajectory.sample,
    tokens: trajectory.tokens.length,
    turns: trajectory.turns,
    outcome: outcomeOf(trajectory, config.outcome),
    lengthPenalty: penaltyOf(trajectory, config.outcome),
    ...{ scores, values, judgeScores },
    failed: trajectory.failure !== undefined || (config.credit.method === "judge" && !judgeScores),
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
