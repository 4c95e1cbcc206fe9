import { InputError } from "../../lib/index.js";
import { formatNumber } from "../report/format.js";
import type { EvaluationRecord } from "./record.js";
import { average, type Interval, meanInterval } from "./statistics.js";
import { formatInterval } from "./table.js";

/** One metric of two evaluations. */
export interface MetricComparison {
  readonly metric: string;
  readonly first: Interval;
  readonly second: Interval;
  /** Second less first over the prompts that both have, prompt by prompt. */
  readonly difference: Interval;
}

export interface Comparison {
  readonly names: readonly [string, string];
  /** Prompts that both have. */
  readonly prompts: number;
  readonly metrics: readonly MetricComparison[];
}

/**
 * Two evaluations of the same held-out tasks side by side. Differences are paired: what makes a prompt hard for both
 * cancels.
 * @throws InputError where they have no prompt or no metric in common, or are of other tasks.
 */
export function compareEvaluations(
  first: EvaluationRecord,
  second: EvaluationRecord,
  names: readonly [string, string],
): Comparison {
  const tasks = new Map(second.tasks.map((each) => [each.task, each]));
  const pairs = first.tasks.flatMap(({ task, opening, values }) => {
    const other = tasks.get(task);
    if (other && other.opening !== opening) {
      throw new InputError(`prompt ${task} of ${names[0]} and ${names[1]} differ; evaluate both on the same tasks`);
    }
    return other ? [[values, other.values] as const] : [];
  });
  if (pairs.length === 0) throw new InputError(`${names[0]} and ${names[1]} have no prompt in common`);
  const shared = Object.keys(first.metrics).filter((name) => name in second.metrics);
  if (shared.length === 0) throw new InputError(`${names[0]} and ${names[1]} have no metric in common`);
  const metrics = shared.map((metric) => {
    const means = pairs.flatMap(([a, b]) =>
      a[metric]?.length && b[metric]?.length ? [[average(a[metric]), average(b[metric])] as const] : [],
    );
    return {
      metric,
      first: meanInterval(means.map(([a]) => a)),
      second: meanInterval(means.map(([, b]) => b)),
      difference: meanInterval(means.map(([a, b]) => b - a)),
    };
  });
  return { names, prompts: pairs.length, metrics };
}

/** A comparison as rows of text, the first a head. A star marks differences whose interval leaves out 0. */
export function comparisonRows({ names, metrics }: Comparison): string[][] {
  return [
    ["", names[0], names[1], "difference", "95 % over prompts"],
    ...metrics.map(({ metric, first, second, difference }) => {
      const isSure = difference.low > 0 || difference.high < 0;
      const sign = difference.mean > 0 ? "+" : "";
      return [
        metric,
        formatNumber(first.mean),
        formatNumber(second.mean),
        `${sign}${formatNumber(difference.mean)}${isSure ? " *" : ""}`,
        formatInterval(difference),
      ];
    }),
  ];
}
