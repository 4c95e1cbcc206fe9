/** What `compare` compares: three ways to credit turns with each estimator, and the forms of RLOO. */
import { readMetrics } from "../rl/report/metrics.js";
import type { RunResult } from "../rl/run.js";

const credits = ["norm_itpo", "itpo", "shared"] as const;
const estimators = ["rloo", "grpo", "ppo", "reinforce_plus_plus"] as const;

/** Forms of RLOO by credit: two need credit that divides the outcome; with `shared` all but `turn_index` are one. */
const forms: Record<(typeof credits)[number], readonly string[]> = {
  norm_itpo: ["turn_index", "reference", "row_total", "share", "advantage_share"],
  itpo: ["turn_index", "reference", "row_total"],
  shared: ["turn_index", "share"],
};

/** Overrides by the cell's name, `CREDIT/ESTIMATOR` or `CREDIT/rloo-FORM`. */
export const cells: ReadonlyMap<string, readonly string[]> = new Map(
  credits.flatMap((credit) =>
    estimators.flatMap((estimator): [string, string[]][] => {
      const overrides = [`credit.method=${credit}`, `advantage.estimator=${estimator}`];
      if (estimator !== "rloo") return [[`${credit}/${estimator}`, overrides]];
      return forms[credit].map((form) => [`${credit}/rloo-${form}`, [...overrides, `advantage.form=${form}`]]);
    }),
  ),
);

/** What one run came to: a line of the results file. */
export interface CellResult {
  readonly game: string;
  readonly cell: string;
  readonly seed: number;
  readonly overrides: readonly string[];
  /** Mean held-out outcome before and after training. */
  readonly before: number;
  readonly after: number;
  /** The first step at which the outcome, averaged over the last `WINDOW` steps' conversations, is at least 0.8. */
  readonly stepTo80: number | null;
  /** Turns of a held-out conversation, on average. */
  readonly turns: { readonly start: number; readonly middle: number; readonly end: number };
  /** Share of the fixed conversations in which the credit's largest turn is the useful one; null without a reward model. */
  readonly alignment: { readonly middle: number; readonly end: number } | null;
  readonly seconds: number;
  /** Per step: mean outcome and turns of the training conversations. */
  readonly curves: { readonly outcome: readonly number[]; readonly turns: readonly number[] };
}

const WINDOW = 5;

/** The line of a finished run, from what it returned and the metrics in its folder. */
export function cellResult(
  run: Pick<CellResult, "game" | "cell" | "seed" | "overrides">,
  { folder, before, after, alignment, seconds }: RunResult,
): CellResult {
  const metrics = readMetrics(folder);
  const curve = (name: string) => metrics.filter(({ step }) => step > 0).map((row) => rounded(row[name] ?? Number.NaN));
  const heldOut = metrics.flatMap(({ "held_out/turns": turns }) => (turns === undefined ? [] : [turns ?? Number.NaN]));
  const outcome = curve("outcome/mean");
  const method = run.cell.split("/")[0];
  const shares = alignment.map(({ methods }) => methods[method]?.share ?? Number.NaN);
  return {
    ...run,
    before,
    after,
    stepTo80: stepTo(0.8, outcome),
    turns: { start: heldOut[0], middle: heldOut[Math.floor(heldOut.length / 2)], end: heldOut.at(-1)! },
    alignment: shares.length > 0 ? { middle: shares[0], end: shares.at(-1)! } : null,
    seconds,
    curves: { outcome, turns: curve("rollout/turns") },
  };
}

/** 1-based; null where it never comes so far. */
export function stepTo(level: number, outcome: readonly number[]): number | null {
  for (let step = WINDOW; step <= outcome.length; step++) {
    if (mean(outcome.slice(step - WINDOW, step)) >= level) return step;
  }
  return null;
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function rounded(value: number): number {
  return Number(value.toFixed(4));
}
