import { type EvaluationSummary, summarize } from "./evaluation/summary.js";
import { type RolloutItem, rollout } from "./rollout.js";
import { rolloutMetrics } from "./stepMetrics.js";
import type { Trainer } from "./trainer.js";
import type { Trajectory } from "./trajectory.js";

export interface Evaluation {
  readonly trajectories: readonly Trajectory[];
  /** Means over the conversations, under `held_out/NAME`. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly outcome: number;
  readonly summary: EvaluationSummary;
}

/** `count` held-out conversations: every held-out task once, then again as further samples. */
export function heldOutItems(count: number, tasks: number): RolloutItem[] {
  return Array.from({ length: count }, (_, i) => ({ task: i % tasks, sample: Math.floor(i / tasks) }));
}

/** Has held-out conversations with the policy as it is after `step` training steps. */
export async function evaluate(trainer: Trainer, step: number): Promise<Evaluation> {
  const { config, parts } = trainer;
  const { conversations, temperature } = config.evaluate;
  const items = heldOutItems(conversations, parts.environment.heldOutSize);
  const { trajectories } = await trainer.rollout(items, { split: "held_out", step, temperature });
  const metrics = rolloutMetrics(trajectories, config);
  const renamed = Object.entries(metrics).map(([name, value]) => [`held_out/${heldOutName(name)}`, value]);
  const calls = Object.entries(parts.environment.takeMetrics?.() ?? {});
  const summary = summarize(trajectories, config);
  return {
    trajectories,
    metrics: {
      ...Object.fromEntries(renamed),
      ...Object.fromEntries(calls.map(([name, value]) => [`held_out/${name.replace("/", "_")}`, value])),
      ...spreadMetrics(summary),
    },
    outcome: metrics["outcome/mean"],
    summary,
  };
}

/** How sure the outcome is over prompts, and the expected best and worst of the samples of a prompt. */
function spreadMetrics({ metrics: { outcome } }: EvaluationSummary): Record<string, number> {
  if (!outcome) return {};
  const of = (name: string, values: Readonly<Record<number, number>>) =>
    Object.entries(values).map(([k, value]) => [`held_out/${name}@${k}`, value]);
  return {
    ...(Number.isFinite(outcome.low) && { "held_out/outcome_low": outcome.low, "held_out/outcome_high": outcome.high }),
    ...Object.fromEntries([...of("best", outcome.best), ...of("worst", outcome.worst)]),
  };
}

function heldOutName(name: string): string {
  if (name === "outcome/mean") return "outcome";
  return name.startsWith("stop/") ? name.replace("/", "_") : name.slice(name.indexOf("/") + 1);
}

/**
 * Conversations of the frozen reference, which is the policy as it started: the fixed set on which credit is scored
 * against the truth. The same at every step and after every resumption.
 */
export async function probeConversations(trainer: Trainer): Promise<readonly Trajectory[]> {
  const { config, parts, reference } = trainer;
  const { trajectories } = await rollout({
    ...config.rollout,
    policy: reference,
    chat: parts.chat,
    environment: parts.environment,
    items: heldOutItems(config.evaluate.probe, parts.environment.heldOutSize),
    split: "held_out",
    seed: config.seed,
    step: PROBE_STEP,
  });
  return trajectories;
}

/** A step number that no training step has, so that the probe has noise of its own. */
const PROBE_STEP = 0x7fffffff;
