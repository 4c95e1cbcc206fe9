import { chartData, chartFigure, type Domain, type Drawing, draw, type Level } from "./chart.js";
import { configSection } from "./configTable.js";
import { type Bounds, conversationData, conversationSection } from "./conversations.js";
import { chartGroups } from "./curves.js";
import { formatDuration } from "./format.js";
import { type Html, html, jsonScript } from "./html.js";
import type { MetricsRow } from "./metrics.js";
import { renderPage, writePage } from "./shell.js";
import { tiles } from "./tiles.js";
import type { Transcript } from "./transcript.js";

/** The page's name inside a run's folder. */
export const REPORT_FILE = "index.html";

/** Everything that the page of a run shows. */
export interface Report {
  /** Name of the run. */
  readonly title: string;
  /** The resolved config: a tree of plain values. Values under names such as `api_key` are not shown. */
  readonly config: unknown;
  readonly metrics: readonly MetricsRow[];
  readonly transcripts: readonly Transcript[];
  /** Facts for the header in their order, such as device, engine, model, seed. */
  readonly facts?: Readonly<Record<string, string | number>>;
  /** Levels to compare outcomes with, such as the best fixed script's. */
  readonly ceilings?: readonly Level[];
  /** Steps of the whole run. */
  readonly steps?: number;
}

const BOUNDS: Bounds = { count: 200, characters: 4_000_000 };

/**
 * Writes the run's page to `directory`/index.html: one file that needs no network. The new page takes the old one's
 * place at once, so it may be written, and read, again and again during training; of two written at the same time either
 * may stand.
 */
export function writeReport(directory: string, report: Report): Promise<void> {
  return writePage(directory, REPORT_FILE, renderReport(report));
}

/** The page as text, bounded: at most 200 conversations, 4 million characters of them, 400 points a curve. */
export function renderReport(report: Report, bounds: Bounds = BOUNDS): string {
  const { title, config, metrics, transcripts, facts = {}, ceilings = [], steps } = report;
  const groups = chartGroups(metrics, ceilings).map(({ title, charts }) => ({ title, drawings: charts.map(draw) }));
  const conversations = conversationData(transcripts, bounds);
  const x = horizontalDomain(metrics);
  return renderPage({
    title,
    state: state(metrics, steps),
    facts: { ...facts, duration: formatDuration(metrics.at(-1)?.time ?? 0) },
    main: html`${tiles(metrics, ceilings, steps)}
<section aria-labelledby="curves"><h2 id="curves">Curves</h2>
${metrics.length === 0 ? html`<p class="note">No step finished yet.</p>` : groupSections(groups, x)}
</section>
${conversationSection(conversations)}
${configSection(config)}`,
    data: [
      jsonScript("charts", { x, charts: groups.flatMap((group) => group.drawings.map(chartData)) }),
      jsonScript("transcripts", conversations),
    ],
  });
}

function state(metrics: readonly MetricsRow[], steps?: number): string {
  const step = metrics.at(-1)?.step ?? 0;
  if (steps === undefined) return `step ${step}`;
  return step >= steps ? `finished, ${steps} steps` : `step ${step} of ${steps}`;
}

/** All charts share one axis of steps, so that one step can be followed through them. */
function horizontalDomain(metrics: readonly MetricsRow[]): Domain {
  const first = metrics[0]?.step ?? 0;
  return [first, Math.max(first + 1, metrics.at(-1)?.step ?? 0)];
}

interface DrawnGroup {
  readonly title: string;
  readonly drawings: readonly Drawing[];
}

/** The groups' charts in rows, at most four to a row. */
function groupSections(groups: readonly DrawnGroup[], x: Domain): Html[] {
  return groups.map(({ title, drawings }, group) => {
    const places = drawings.length + drawings.filter(({ chart }) => chart.wide).length;
    const columns = Math.max(2, Math.ceil(places / Math.ceil(places / 4)));
    const figures = drawings.map((drawing, i) => chartFigure(drawing, `chart-${group}-${i}`, x));
    return html`<h3>${title}</h3><div class="charts" style="--columns:${columns}">${figures}</div>`;
  });
}
