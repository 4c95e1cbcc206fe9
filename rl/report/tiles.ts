import type { Level } from "./chart.js";
import { seriesOf } from "./curves.js";
import { formatDuration, formatNumber } from "./format.js";
import { type Html, html } from "./html.js";
import type { MetricsRow } from "./metrics.js";

interface Tile {
  readonly name: string;
  readonly value: string | Html;
  readonly note?: string;
}

/** The headline numbers of a run; a number whose metric is missing has no tile. */
export function tiles(rows: readonly MetricsRow[], ceilings: readonly Level[], steps?: number): Html {
  const all = [
    heldOut(rows),
    training(rows),
    levels(ceilings),
    alignment(rows),
    speed(rows),
    progress(rows, steps),
    lost(rows),
  ];
  return html`<ul class="tiles">${all.filter((tile) => tile !== undefined).map(item)}</ul>`;
}

function item({ name, value, note }: Tile): Html {
  const small = note ? html`<div class="note">${note}</div>` : "";
  return html`<li><div class="name">${name}</div><div class="value">${value}</div>${small}</li>`;
}

/** A metric where it is finite. */
function finite(rows: readonly MetricsRow[], key: string): { step: number; value: number }[] {
  const { steps, values } = seriesOf(rows, key);
  return steps.flatMap((step, i) => {
    const value = values[i];
    return value === null ? [] : [{ step, value }];
  });
}

function change(before: number, after: number): Html {
  return html`<span class="from">${formatNumber(before)} →</span> ${formatNumber(after)}`;
}

function heldOut(rows: readonly MetricsRow[]): Tile | undefined {
  const points = finite(rows, "held_out/outcome");
  const first = points[0];
  const last = points.at(-1);
  if (!last) return undefined;
  const note = `step ${first.step} → ${last.step}`;
  return { name: "Held-out outcome", value: change(first.value, last.value), note };
}

function training(rows: readonly MetricsRow[]): Tile | undefined {
  const values = finite(rows, "outcome/mean").map((point) => point.value);
  if (values.length === 0) return undefined;
  const count = Math.max(1, Math.ceil(values.length / 10));
  const value = change(mean(values.slice(0, count)), mean(values.slice(-count)));
  return { name: "Training outcome", value, note: `first and last ${count === 1 ? "step" : `${count} steps`}` };
}

function levels(ceilings: readonly Level[]): Tile | undefined {
  if (ceilings.length === 0) return undefined;
  const rows = ceilings.map(
    ({ label, value }) => html`<tr><th scope="row">${label}</th><td>${formatNumber(value)}</td></tr>`,
  );
  return { name: "To compare with", value: html`<table>${rows}</table>` };
}

function alignment(rows: readonly MetricsRow[]): Tile | undefined {
  const keys = Object.keys(rows.findLast((row) => Object.keys(row).some(isCredit)) ?? {}).filter(isCredit);
  const [key] = keys.filter((each) => each !== "credit/chance");
  const last = key === undefined ? undefined : finite(rows, key).at(-1);
  if (!last) return undefined;
  const chance = finite(rows, "credit/chance").at(-1);
  const name = key.slice("credit/".length).replaceAll("_", " ");
  const note = chance ? `${name}, chance ${formatNumber(chance.value)}` : name;
  return { name: "Credit alignment", value: formatNumber(last.value), note };
}

function isCredit(key: string): boolean {
  return key.startsWith("credit/");
}

function speed(rows: readonly MetricsRow[]): Tile | undefined {
  const values = finite(rows, "rollout/tokens_per_s").map((point) => point.value);
  if (values.length === 0) return undefined;
  const median = values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return { name: "Tokens a second", value: formatNumber(median), note: "median of the steps" };
}

function progress(rows: readonly MetricsRow[], steps?: number): Tile | undefined {
  const last = rows.at(-1);
  if (!last) return undefined;
  const done = last.step - rows[0].step;
  const note = done > 0 ? `${formatNumber((last.time - rows[0].time) / done)} s a step` : undefined;
  return {
    name: steps ? `Time at step ${last.step} of ${steps}` : `Time at step ${last.step}`,
    value: formatDuration(last.time),
    note,
  };
}

/** A warning: values that were not finite. */
function lost(rows: readonly MetricsRow[]): Tile | undefined {
  const keys = rows.flatMap((row) => Object.keys(row).filter((key) => row[key] === null));
  if (keys.length === 0) return undefined;
  return {
    name: "Not finite",
    value: `${keys.length} ${keys.length === 1 ? "value" : "values"}`,
    note: [...new Set(keys)].slice(0, 4).join(", "),
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
