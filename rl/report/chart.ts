import { formatNumber } from "./format.js";
import { type Html, html } from "./html.js";

/** One curve: steps in increasing order and the value at each; null, a value that was not finite, leaves a gap. */
export interface Series {
  readonly name: string;
  readonly steps: readonly number[];
  readonly values: readonly (number | null)[];
}

/** A level to compare curves with, drawn as a dashed line. */
export interface Level {
  readonly label: string;
  readonly value: number;
}

/** What one chart shows. */
export interface Chart {
  readonly title: string;
  readonly note?: string;
  readonly series: readonly Series[];
  readonly levels?: readonly Level[];
  /** Takes the room of two. */
  readonly wide?: boolean;
  /** Values that the vertical axis covers at least. */
  readonly range?: readonly [number, number];
}

/** First and last value of an axis. */
export type Domain = readonly [number, number];

/** Series of more points than this are drawn smoothed, over their faint raw values. */
const SMOOTHED_FROM = 30;
/** Series of more points than this are thinned to the extremes of equal stretches. */
const MAX_POINTS = 400;

/** A chart made ready: curves thinned, and smoothed where there are many points; the vertical axis fixed. */
export interface Drawing {
  readonly chart: Chart;
  readonly series: readonly { readonly raw: Series; readonly smoothed?: Series }[];
  readonly y: Domain;
}

/** Makes a chart ready for its figure and its data. */
export function draw(chart: Chart): Drawing {
  const series = chart.series.map((each) => ({
    raw: thin(each),
    smoothed: each.steps.length > SMOOTHED_FROM ? thin({ ...each, values: smooth(each.values) }) : undefined,
  }));
  const values = series.flatMap(({ raw }) => raw.values.filter((value) => value !== null));
  const levels = (chart.levels ?? []).map((level) => level.value);
  return { chart, series, y: domainOf([...values, ...levels, ...(chart.range ?? [])]) };
}

/** From the smallest to the largest value, with a little air. */
function domainOf(values: readonly number[]): Domain {
  if (values.length === 0) return [0, 1];
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  if (low === high) return low === 0 ? [0, 1] : [low - Math.abs(low) * 0.1, low + Math.abs(low) * 0.1];
  const air = (high - low) * 0.05;
  return [low - air, high + air];
}

/** Round values inside a domain, at distances of 1, 2 or 5 times a power of ten, about `count` of them. */
export function ticks([low, high]: Domain, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const distance = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(low / distance);
  const last = Math.floor(high / distance + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) =>
    Number(((first + i) * distance).toPrecision(12)),
  );
}

/** Mean weighted by exp(−distance / reach) to both sides, so without lag; the reach is a thirtieth of the series. */
export function smooth(values: readonly (number | null)[]): (number | null)[] {
  const keep = Math.exp(-30 / values.length);
  const sums = new Float64Array(values.length);
  const masses = new Float64Array(values.length);
  const sweep = (start: number, end: number, by: number) => {
    for (let i = start, sum = 0, mass = 0; i !== end; i += by) {
      const value = values[i];
      sums[i] += sum;
      masses[i] += mass;
      sum = keep * (sum + (value ?? 0));
      mass = keep * (mass + (value === null ? 0 : 1));
    }
  };
  sweep(0, values.length, 1);
  sweep(values.length - 1, -1, -1);
  return values.map((value, i) => (value === null ? null : (value + sums[i]) / (1 + masses[i])));
}

/** Thins a long series to the smallest and largest value of each of equal stretches. Gaps inside a stretch are lost. */
export function thin(series: Series, limit = MAX_POINTS): Series {
  const { name, steps, values } = series;
  if (steps.length <= limit) return series;
  const stretches = Math.floor(limit / 2);
  const kept = new Set<number>();
  for (let stretch = 0; stretch < stretches; stretch++) {
    const start = Math.floor((stretch * steps.length) / stretches);
    const end = Math.floor(((stretch + 1) * steps.length) / stretches);
    let low = start;
    let high = start;
    for (let i = start + 1; i < end; i++) {
      const value = values[i] ?? Number.NaN;
      if (value < (values[low] ?? Number.POSITIVE_INFINITY)) low = i;
      if (value > (values[high] ?? Number.NEGATIVE_INFINITY)) high = i;
    }
    kept.add(low).add(high);
  }
  const indices = [...kept].sort((a, b) => a - b);
  return { name, steps: indices.map((i) => steps[i]), values: indices.map((i) => values[i]) };
}

/** What the browser needs to read values off a chart. */
export function chartData({ series, y }: Drawing): { y: Domain; series: Series[] } {
  return { y, series: series.map(({ raw }) => raw) };
}

/**
 * A chart as a figure: title, legend with the last values, plot. The drawing stretches to any width, so it is laid out
 * in thousandths; labels are text beside it.
 */
export function chartFigure({ chart, series, y: vertical }: Drawing, id: string, horizontal: Domain): Html {
  const x = (step: number) => percent(step, horizontal);
  const y = (value: number) => 100 - percent(value, vertical);
  const levels = chart.levels ?? [];
  const rows = ticks(vertical, 5);
  const steps = ticks(horizontal, 5).filter(Number.isInteger);
  const tick = (value: number, side: string, place: number) =>
    html`<span style="${side}:${place.toFixed(2)}%">${tickLabel(value)}</span>`;
  const note = chart.note ? html`<p>${chart.note}</p>` : "";
  return html`<figure class="chart${chart.wide ? " wide" : ""}" data-chart="${id}" aria-labelledby="${id}-title">
<figcaption><h4 id="${id}-title">${chart.title}</h4><span class="at"></span>${note}</figcaption>
<ul class="legend">${chart.series.map((each, i) => legendItem(each, style(each, i), chart.title))}</ul>
<div class="plot">
<div class="y" aria-hidden="true">${rows.map((value) => tick(value, "top", y(value)))}</div>
<div class="area" role="img" aria-label="${describe(chart)}">
<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
<path class="grid" d="${rows.map((value) => `M0 ${(y(value) * 10).toFixed(1)}H1000`)}"/>
${levels.map((level) => html`<path class="level" d="M0 ${(y(level.value) * 10).toFixed(1)}H1000"/>`)}
${series.map(({ raw, smoothed }, i) => curves(raw, smoothed, style(raw, i), x, y))}
</svg>
${levelLabels(levels, y)}
</div>
<span class="x-name" aria-hidden="true">step</span>
<div class="x" aria-hidden="true">${steps.map((step) => tick(step, "left", x(step)))}</div>
</div>
</figure>`;
}

function legendItem({ name, values }: Series, style: string, title: string): Html {
  const shown = name.toLowerCase() === title.toLowerCase() ? "" : name;
  return html`<li><i class="key ${style}"></i>${shown} <b>${formatNumber(values.at(-1))}</b></li>`;
}

function percent(value: number, [low, high]: Domain): number {
  return high > low ? (100 * (value - low)) / (high - low) : 50;
}

/** Colour of a series by its place; "chance" is a reference and stays grey. */
function style(series: Series, index: number): string {
  return series.name === "chance" ? "chance" : `s${(index % 7) + 1}`;
}

type Scale = (value: number) => number;

function curves(raw: Series, smoothed: Series | undefined, name: string, x: Scale, y: Scale): Html {
  return smoothed
    ? html`<path class="raw ${name}" d="${path(raw, x, y)}"/><path class="line ${name}" d="${path(smoothed, x, y)}"/>`
    : html`<path class="line ${name}" d="${path(raw, x, y)}"/><path class="dots ${name}" d="${dots(raw, x, y)}"/>`;
}

function point(step: number, value: number, x: Scale, y: Scale): string {
  return `${(x(step) * 10).toFixed(1)} ${(y(value) * 10).toFixed(1)}`;
}

function path({ steps, values }: Series, x: Scale, y: Scale): string {
  const commands = values.map((value, i) => {
    if (value === null) return "";
    const starts = i === 0 || values[i - 1] === null;
    return `${starts ? "M" : "L"}${point(steps[i], value, x, y)}`;
  });
  return commands.join("");
}

/** Lines of no length: with round caps they are dots, which do not stretch. */
function dots({ steps, values }: Series, x: Scale, y: Scale): string {
  return values.map((value, i) => (value === null ? "" : `M${point(steps[i], value, x, y)}h0`)).join("");
}

/** Names of the levels above their lines at the right edge; one that would touch its neighbour goes to the left. */
function levelLabels(levels: readonly Level[], y: Scale): Html[] {
  const places = [...levels].sort((a, b) => a.value - b.value);
  let lastRight = Number.POSITIVE_INFINITY;
  return places.map(({ label, value }) => {
    const left = lastRight - y(value) < 9;
    if (!left) lastRight = y(value);
    const top = `top:${y(value).toFixed(2)}%`;
    return html`<span class="level-label${left ? " left" : ""}" style="${top}">${label} ${formatNumber(value)}</span>`;
  });
}

function tickLabel(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${value / 1e6}M`;
  if (size >= 1e4) return `${value / 1e3}k`;
  if (size !== 0 && size < 0.001) return value.toExponential(0);
  return value.toLocaleString("en-US", { maximumFractionDigits: 4 });
}

function describe(chart: Chart): string {
  const series = chart.series.map(({ name, values, steps }) => {
    const range = `from ${formatNumber(values[0])} to ${formatNumber(values.at(-1))}`;
    return `${name} ${range} at step ${steps.at(-1)}`;
  });
  const levels = (chart.levels ?? []).map(({ label, value }) => `${label} ${formatNumber(value)}`);
  return `${chart.title}: ${[...series, ...levels].join("; ")}`;
}
