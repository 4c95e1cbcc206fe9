import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { openJsonLines, readJsonLines } from "./jsonLines.js";

/** The metrics file's name inside a run's folder. */
export const METRICS_FILE = "metrics.jsonl";

/**
 * The metrics of one step under flat `group/name` keys, such as `outcome/mean` or `policy/kl`; a metric that was not
 * finite is null. `time` is in seconds since the run's start, pauses between resumed processes not counted.
 */
export interface MetricsRow {
  readonly step: number;
  readonly time: number;
  readonly [key: string]: number | null;
}

/**
 * The metrics of a run: values gather in a buffer until the step ends, then go to the file as one line. Rows are not kept
 * in memory; `readMetrics` has them.
 */
export interface Metrics {
  /** How many values were not finite since opening; they are in the rows as null. */
  readonly nonFinite: number;
  /** Adds values to the current step. A key given twice keeps its last value. */
  log(values: Readonly<Record<string, number>>): void;
  /** Ends the step: writes its line and returns it. Steps that a resumed run repeats replace the old ones. */
  flush(step: number): MetricsRow;
  /** Closes the file; what was logged since the last flush is dropped. */
  close(): void;
}

/** Opens the metrics of the run in `directory`, which is created if need be. `now` is a clock in seconds. */
export function openMetrics(directory: string, now: () => number = () => performance.now() / 1000): Metrics {
  mkdirSync(directory, { recursive: true });
  const path = join(directory, METRICS_FILE);
  const file = openJsonLines(path);
  const start = now() - (readMetrics(directory).at(-1)?.time ?? 0);
  let values: Record<string, number | null> = {};
  let nonFinite = 0;
  return {
    get nonFinite() {
      return nonFinite;
    },
    log(added) {
      for (const [key, value] of Object.entries(added)) {
        const finite = Number.isFinite(value);
        if (!finite) nonFinite += 1;
        values[key] = finite ? value : null;
      }
    },
    flush(step) {
      const row: MetricsRow = { ...values, step, time: Number((now() - start).toFixed(3)) };
      values = {};
      file.append([row]);
      return row;
    },
    close: () => file.close(),
  };
}

/**
 * The metrics of the run in `directory`, in order of step: a torn last line is ignored, and where a resumed run
 * repeated steps the later rows stand. Empty if there is no file.
 * @throws InputError when a complete line is not JSON.
 */
export function readMetrics(directory: string): MetricsRow[] {
  const rows: MetricsRow[] = [];
  for (const row of readJsonLines<MetricsRow>(join(directory, METRICS_FILE))) {
    while (rows.length > 0 && rows[rows.length - 1].step >= row.step) rows.pop();
    rows.push(row);
  }
  return rows;
}
