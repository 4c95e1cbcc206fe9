import { createHash } from "node:crypto";
import type { TrainConfig } from "../config.js";
import { outcomeOf, penaltyOf } from "../outcome.js";
import { groupBy } from "../report/groupBy.js";
import type { Trajectory } from "../trajectory.js";
import { average, bestOf, deviation, drawSizes, type Interval, meanInterval, worstOf } from "./statistics.js";

/** One metric over the prompts of an evaluation. */
export interface MetricSummary extends Interval {
  /** Spread of a prompt's samples, mean over prompts. */
  readonly deviation: number;
  /** Expected best and worst of k samples, mean over prompts, by k. */
  readonly best: Readonly<Record<number, number>>;
  readonly worst: Readonly<Record<number, number>>;
}

/** The samples of one prompt that did not fail, by metric. */
export interface TaskSamples {
  readonly task: number;
  /** Hash of what the user opens with: evaluations of other tasks have others. */
  readonly opening: string;
  readonly values: Readonly<Record<string, readonly number[]>>;
}

export interface EvaluationSummary {
  /** Prompts with at least one conversation that did not fail. */
  readonly prompts: number;
  /** Conversations asked for each prompt. */
  readonly samples: number;
  readonly conversations: number;
  /** Conversations that failed: they are in no mean. */
  readonly failed: number;
  /** `outcome` first, then the raw metrics; the mean is a mean over prompts, and the interval says how sure it is over prompts. */
  readonly metrics: Readonly<Record<string, MetricSummary>>;
  /** Share of the conversations by how they ended, a `StopReason`. */
  readonly stops: Readonly<Record<string, number>>;
  readonly tasks: readonly TaskSamples[];
}

/** Summarises conversations in groups of the same task. */
export function summarize(
  trajectories: readonly Trajectory[],
  { outcome }: Pick<TrainConfig, "outcome">,
): EvaluationSummary {
  const groups = [...groupBy(trajectories, ({ task }) => task)];
  const tasks = groups.flatMap(([task, members]) => {
    const done = members.filter(({ failure }) => failure === undefined);
    return done.length > 0 ? [{ task, opening: openingOf(done[0]), values: valuesOf(done, outcome) }] : [];
  });
  const samples = groups.reduce((most, [, members]) => Math.max(most, members.length), 0);
  const names = new Set(tasks.flatMap(({ values }) => Object.keys(values)));
  const stops = [...groupBy(trajectories, ({ stop }) => stop)];
  return {
    prompts: tasks.length,
    samples,
    conversations: trajectories.length,
    failed: trajectories.filter(({ failure }) => failure !== undefined).length,
    metrics: Object.fromEntries([...names].map((name) => [name, summarizeMetric(name, tasks, samples)])),
    stops: Object.fromEntries(stops.map(([stop, members]) => [stop, members.length / trajectories.length])),
    tasks,
  };
}

function openingOf({ messages }: Trajectory): string {
  const first = messages.findIndex(({ role }) => role === "assistant");
  const opening = messages.slice(0, first < 0 ? undefined : first).filter(({ role }) => role === "user");
  return createHash("sha256").update(JSON.stringify(opening)).digest("hex").slice(0, 16);
}

function valuesOf(done: readonly Trajectory[], outcome: TrainConfig["outcome"]): Record<string, number[]> {
  const names = new Set(done.flatMap(({ metrics }) => Object.keys(metrics)));
  const raw = [...names].map((name) => [
    name,
    done.flatMap(({ metrics }) => (metrics[name] === undefined ? [] : [metrics[name]])),
  ]);
  return {
    outcome: done.map((each) => outcomeOf(each, outcome) + penaltyOf(each, outcome)),
    ...Object.fromEntries(raw),
  };
}

function summarizeMetric(name: string, tasks: readonly TaskSamples[], samples: number): MetricSummary {
  const groups = tasks.flatMap(({ values }) => (values[name]?.length ? [values[name]] : []));
  const over = (of: (values: readonly number[], k: number) => number) =>
    Object.fromEntries(drawSizes(samples).map((k) => [k, average(groups.map((values) => of(values, k)))]));
  return {
    ...meanInterval(groups.map(average)),
    deviation: average(groups.map(deviation)),
    best: over(bestOf),
    worst: over(worstOf),
  };
}
