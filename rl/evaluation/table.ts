import { formatNumber } from "../report/format.js";
import type { Interval } from "./statistics.js";
import type { EvaluationSummary, MetricSummary } from "./summary.js";

/** Rows of text, the first a head; columns aligned, the first to the left. */
export function textTable(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

export function formatInterval({ low, high }: Interval): string {
  return Number.isFinite(low) ? `[${formatNumber(low)}, ${formatNumber(high)}]` : "–";
}

/** The metrics of an evaluation as rows of text, the first a head. */
export function summaryRows({ metrics, samples }: EvaluationSummary): string[][] {
  const sizes = Object.keys(Object.values(metrics)[0]?.best ?? {}).map(Number);
  const head = ["", `mean@${samples}`, "95 % over prompts", "spread"];
  return [
    [...head, ...sizes.map((k) => `best@${k}`), ...sizes.map((k) => `worst@${k}`)],
    ...Object.entries(metrics).map(([name, metric]) => [name, ...metricCells(metric, sizes)]),
  ];
}

function metricCells(metric: MetricSummary, sizes: readonly number[]): string[] {
  const { mean, deviation, best, worst } = metric;
  const drawn = [...sizes.map((k) => best[k]), ...sizes.map((k) => worst[k])];
  return [formatNumber(mean), formatInterval(metric), formatNumber(deviation), ...drawn.map(formatNumber)];
}

/** An evaluation for people. */
export function summaryTable(summary: EvaluationSummary): string {
  const { prompts, samples, conversations, failed, stops } = summary;
  const ends = Object.entries(stops).map(([stop, share]) => `${stop} ${(100 * share).toFixed(0)} %`);
  return [
    `${prompts} prompts × ${samples} samples, ${failed} of ${conversations} conversations failed; ${ends.join(", ")}`,
    textTable(summaryRows(summary)),
  ].join("\n");
}
