/** A critic: a language model with a head that says how much reward is still to come, for `ppo` and credit by `value`. */
import { keep, outsideArenas, type Tensor, zeros } from "../lib/index.js";
import type { Qwen } from "../models/index.js";
import { needsCritic, type TrainConfig } from "./config.js";
import { Learner } from "./learner.js";
import { explainedVariance, type RewardRow, totalReward, valueLoss } from "./objective/index.js";
import { learningRate } from "./sft.js";
import { addMeans, miniBatches } from "./stepMetrics.js";
import type { Trajectory } from "./trajectory.js";

/** A critic's weights. */
export interface CriticModel {
  readonly model: Qwen;
  /** [1, hiddenSize] */
  readonly valueHead: Tensor;
}

/** A head with which every value is 0. */
export function freshValueHead({ config, backend, parameters }: Qwen): Tensor {
  const { dtype } = parameters.values().next().value!;
  const head = outsideArenas(() => keep(zeros([1, config.hiddenSize], { backend, dtype })));
  head.requiresGrad = true;
  return head;
}

/** The critic that a config needs, or none. `model` gives its backbone. */
export function openCritic(
  config: TrainConfig,
  saved: CriticModel | undefined,
  model: () => Qwen,
): Learner | undefined {
  if (!needsCritic(config)) return undefined;
  const backbone = saved?.model ?? model();
  const { critic, microBatchTokens } = config;
  return new Learner(backbone, {
    ...critic,
    microBatchTokens,
    valueHead: saved?.valueHead ?? freshValueHead(backbone),
  });
}

/** Values of the states before each sampled token, [tokens] a row. */
export async function criticValues(critic: Learner, trajectories: readonly Trajectory[]): Promise<Float64Array[]> {
  const outputs = await critic.forward(trajectories);
  return outputs.map(({ values = [] }) => Float64Array.from(values));
}

/**
 * What the critic learns: `ppo`'s returns; where it only gives credit, the whole reward at every token, whose value it is
 * to know.
 */
export function criticReturns(
  { credit }: Pick<TrainConfig, "credit">,
  rows: readonly RewardRow[],
  returns: readonly Float64Array[],
): Float64Array[] {
  return rows.map((row, i) =>
    credit.method === "value" ? new Float64Array(row.tokens).fill(totalReward(row)) : returns[i],
  );
}

/** Updates the critic; rows that are excluded take no part. */
export async function learnValues(
  critic: Learner,
  config: TrainConfig,
  {
    trajectories,
    values,
    returns,
    isExcluded,
    step,
  }: {
    readonly trajectories: readonly Trajectory[];
    readonly values: readonly Float64Array[];
    readonly returns: readonly Float64Array[];
    readonly isExcluded: (i: number) => boolean;
    readonly step: number;
  },
  metrics: Record<string, number>,
): Promise<void> {
  const rows = trajectories
    .map((trajectory, i) => ({ ...trajectory, oldValues: values[i], returns: returns[i] }))
    .filter((_, i) => !isExcluded(i));
  metrics["critic/vf_explained_var"] = explainedVariance(
    rows.map(({ oldValues }) => oldValues),
    rows.map((row) => row.returns),
    rows.map(({ turns }) => turns),
  );
  const { clip, epochs, miniBatch } = config.critic;
  const loss = valueLoss({ clip });
  const lr = learningRate(config.critic, config.steps)(step);
  const parts = Array.from({ length: epochs }, () => miniBatches(rows, miniBatch)).flat();
  for (const part of parts) {
    addMeans(metrics, "critic", await critic.forwardBackward(part, loss), parts.length);
    const { gradNorm, skipped } = await critic.optimStep({ lr });
    addMeans(metrics, "critic", { grad_norm: gradNorm, skipped: Number(skipped) }, parts.length);
  }
}
