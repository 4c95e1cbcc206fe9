import { setImmediate } from "node:timers/promises";
import { randomStream, schedule } from "../lib/index.js";
import type { OptimizerOptions, SftOptions } from "./config.js";
import type { TokenizedDialogue } from "./dialogue.js";
import type { Learner } from "./learner.js";
import { sftLoss } from "./objective/index.js";

/** What is told of one supervised step. */
export interface SftStep {
  readonly step: number;
  /** Cross-entropy per assistant token, in nats. */
  readonly loss: number;
  readonly gradNorm: number;
  /** The gradient was not finite, and the weights are as before. */
  readonly skipped: boolean;
  /** Tokens of the batch, prompts included. */
  readonly tokens: number;
}

/** Learning rate by the 1-based number of the optimizer step. */
export function learningRate(options: OptimizerOptions & { readonly warmupSteps?: number }, totalSteps: number) {
  const { lr, schedule: kind, finalLr, warmupSteps = 0 } = options;
  const factor = schedule({ kind, warmupSteps, totalSteps: Math.max(totalSteps, warmupSteps + 1), final: finalLr });
  return (step: number): number => lr * factor(step);
}

/**
 * Supervised fine-tuning: cross-entropy on the assistant's tokens of the conversations that `batch` gives for each step.
 * `done` steps are behind it already; once `signal` is aborted it ends after the current one.
 */
export async function fineTune(
  learner: Learner,
  options: SftOptions,
  batch: (step: number) => readonly TokenizedDialogue[],
  onStep?: (step: SftStep) => void | Promise<void>,
  { done = 0, signal }: { readonly done?: number; readonly signal?: AbortSignal } = {},
): Promise<void> {
  const lr = learningRate(options, options.steps);
  const loss = sftLoss();
  for (let step = done + 1; step <= options.steps && !signal?.aborted; step++) {
    const rows = batch(step).map((dialogue) => ({ ...dialogue, weights: turnWeights(dialogue) }));
    const metrics = await learner.forwardBackward(rows, loss);
    const { gradNorm, skipped } = await learner.optimStep({ lr: lr(step) });
    const tokens = rows.reduce((sum, row) => sum + row.tokens.length, 0);
    await onStep?.({ step, loss: metrics.sft_loss, gradNorm, skipped, tokens });
    // On the cpu nothing in a step waits for the event loop, and without it no signal would ever arrive.
    await setImmediate();
  }
}

function turnWeights({ tokens, turns }: TokenizedDialogue): Float64Array {
  const weights = new Float64Array(tokens.length);
  for (const { start, end } of turns) weights.fill(1, start, end);
  return weights;
}

/** Batches of `size` from a list, shuffled anew each time it is used up; step is 1-based. */
export function shuffledBatches<T>(items: readonly T[], size: number, seed: number): (step: number) => T[] {
  const orders = new Map<number, T[]>();
  const order = (epoch: number): T[] => {
    const known = orders.get(epoch);
    if (known) return known;
    const made = randomStream(seed, epoch).shuffle([...items]);
    if (orders.size > 1) orders.delete(Math.min(...orders.keys()));
    orders.set(epoch, made);
    return made;
  };
  return (step) =>
    Array.from({ length: size }, (_, i) => {
      const at = (step - 1) * size + i;
      return order(Math.floor(at / items.length))[at % items.length];
    });
}
