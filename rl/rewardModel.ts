/** The process reward model inside a training step: it learns the outcomes, and scores every token. */
import type { Qwen } from "../models/index.js";
import type { TrainConfig } from "./config.js";
import { forwardRows, type Learner, type LearnerRow } from "./learner.js";
import {
  type Loss,
  logRatios,
  type Outputs,
  type PrmPairRow,
  pairAccuracy,
  primeNorm,
  prmLoss,
  prmPairLoss,
  signAccuracy,
  tokenScores,
} from "./objective/index.js";
import { labelOf } from "./outcome.js";
import { addMeans, miniBatches, total } from "./stepMetrics.js";
import type { Trajectory } from "./trajectory.js";

/** Token scores of the process reward model before normalisation, and what they were computed from. */
export interface PrmScores {
  readonly scores: readonly Float64Array[];
  /** Log π_φ / π_ref per token. */
  readonly ratios: readonly Float64Array[];
}

interface Batch {
  readonly trajectories: readonly Trajectory[];
  /** The frozen reference's outputs. */
  readonly reference: readonly Outputs[];
  readonly lr: number;
}

type Row = Trajectory & LearnerRow & PrmPairRow;
type Passes = Map<Row, Outputs>;

/** What the process reward model says of every token, before normalisation. */
export async function scoreTokens(
  model: Qwen,
  trajectories: readonly Trajectory[],
  reference: readonly Outputs[],
  config: TrainConfig,
): Promise<PrmScores> {
  return scoresOf(await forwardRows(model, trajectories, config), trajectories, reference, config);
}

function scoresOf(
  outputs: readonly (Outputs | undefined)[],
  trajectories: readonly Trajectory[],
  reference: readonly Outputs[],
  config: TrainConfig,
): PrmScores {
  const { useOutcome, ...options } = config.prm;
  const ratios = trajectories.map(({ turns, tokens }, i) => {
    const logprobs = outputs[i]?.logprobs;
    return logprobs ? logRatios(logprobs, reference[i].logprobs, turns) : new Float64Array(tokens.length);
  });
  const scores = trajectories.map((trajectory, i) => {
    const outcome = useOutcome ? prmLabel(trajectory, config) : undefined;
    return tokenScores(ratios[i], trajectory.turns, { ...options, outcome });
  });
  return { ratios, scores };
}

/**
 * When the batch is scored, beside the update on its outcomes. Scoring after it means scoring with a model that has just
 * seen these outcomes; scoring in the passes of the training itself sees a mixture of weights.
 */
const schedules: Record<
  TrainConfig["prm"]["update"],
  (update: () => Promise<(Outputs | undefined)[]>, score: () => Promise<Outputs[]>) => Promise<(Outputs | undefined)[]>
> = {
  async before(update, score) {
    await update();
    return score();
  },
  after: (update) => update(),
  async reverse(update, score) {
    const outputs = await score();
    await update();
    return outputs;
  },
  none: (_, score) => score(),
};

/** One step of the process reward model. Gives the batch's token scores, normalised. */
export async function learnRewards(
  prm: Learner,
  config: TrainConfig,
  batch: Batch,
  metrics: Record<string, number>,
): Promise<readonly Float64Array[]> {
  const { trajectories, reference } = batch;
  const rows = trajectories.map(
    (trajectory, i): Row => ({
      ...trajectory,
      referenceLogprobs: reference[i].logprobs,
      label: prmLabel(trajectory, config),
      group: trajectory.task,
    }),
  );
  const outputs = await schedules[config.prm.update](
    async () => {
      const passes = await update(prm, rows, config, batch.lr, metrics);
      const outputs = rows.map((row) => passes.get(row));
      addAccuracies(metrics, "_before", rows, scoresOf(outputs, trajectories, reference, config));
      return outputs;
    },
    () => forwardRows(prm.model, trajectories, config),
  );
  const result = scoresOf(outputs, trajectories, reference, config);
  const isDone = trajectories.map(({ failure }) => failure === undefined);
  // What a failed conversation scores must not scale the others.
  const raw = result.scores.map((score, i) => (isDone[i] ? score : new Float64Array(score.length)));
  const { scores, divisor } =
    config.prm.norm === "batch" ? primeNorm(raw, { ranks: config.prm.normRanks }) : { scores: raw, divisor: 1 };
  const done = isDone.filter(Boolean).length;
  metrics["prm/divisor"] = divisor;
  metrics["prm/reward"] = done > 0 ? scores.reduce((sum, row) => sum + total(row), 0) / done : 0;
  metrics["prm/lr"] = batch.lr;
  addAccuracies(metrics, "", rows, result);
  return scores;
}

/** How well the rows' summed ratios tell their outcomes: by sign, and by pairs of one group where there are such. */
function addAccuracies(
  metrics: Record<string, number>,
  suffix: string,
  rows: readonly Row[],
  { ratios }: PrmScores,
): void {
  const done = rows.map((row, i) => ({ row, sum: total(ratios[i]) })).filter(({ row }) => isDoneRow(row));
  const [sums, labels, groups] = [
    done.map(({ sum }) => sum),
    done.map(({ row }) => row.label),
    done.map(({ row }) => row.group),
  ];
  metrics[`prm/accuracy${suffix}`] = signAccuracy(sums, labels);
  const pairs = pairAccuracy(sums, labels, groups);
  if (Number.isFinite(pairs)) metrics[`prm/pair_accuracy${suffix}`] = pairs;
}

function isDoneRow({ failure }: Row): boolean {
  return failure === undefined;
}

/** Trains on the outcomes. Gives what the training's own passes said of each row. */
async function update(
  prm: Learner,
  all: readonly Row[],
  config: TrainConfig,
  lr: number,
  metrics: Record<string, number>,
): Promise<Passes> {
  const { beta, reference, loss: form } = config.prm;
  const passes: Passes = new Map();
  const loss = recorded<Row>(form === "ce" ? prmLoss({ beta, reference }) : prmPairLoss({ beta, form }), passes);
  const parts = batches(
    all.filter((row) => isDoneRow(row) && row.turns.length > 0),
    config,
  );
  for (const part of parts) {
    addMeans(metrics, "prm", await prm.forwardBackward(part, loss), parts.length);
    const { gradNorm, skipped } = await prm.optimStep({ lr });
    addMeans(metrics, "prm", { grad_norm: gradNorm, skipped: Number(skipped) }, parts.length);
  }
  return passes;
}

/** Mini-batches, of whole groups for losses that compare the samples of a prompt. */
function batches(rows: readonly Row[], { prm, rollout }: TrainConfig): Row[][] {
  if (prm.loss === "ce") return miniBatches(rows, prm.miniBatch);
  const groups = [...new Set(rows.map(({ group }) => group))].map((group) => rows.filter((row) => row.group === group));
  return miniBatches(groups, prm.miniBatch / rollout.samples).map((part) => part.flat());
}

/** A loss that keeps the outputs it is shown. */
function recorded<R>(loss: Loss<R>, passes: Map<R, Outputs>): Loss<R> {
  return {
    ...loss,
    bind(rows) {
      const bound = loss.bind(rows);
      return (outputs, indices) => {
        indices.forEach((i, j) => {
          passes.set(rows[i], outputs[j]);
        });
        return bound(outputs, indices);
      };
    },
  };
}

/** The outcome to predict: as it is, or 1 above the threshold and 0 else. */
function prmLabel(trajectory: Trajectory, { outcome, prm }: TrainConfig): number {
  const label = labelOf(trajectory, outcome);
  return prm.label === "hard" && Number.isFinite(label) ? Number(label > prm.threshold) : label;
}
