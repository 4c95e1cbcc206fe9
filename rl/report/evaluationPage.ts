import { type Comparison, comparisonRows } from "../evaluation/compare.js";
import type { EvaluationRecord } from "../evaluation/record.js";
import { summaryRows } from "../evaluation/table.js";
import { configSection } from "./configTable.js";
import { conversationData, conversationSection } from "./conversations.js";
import { formatDuration, formatNumber } from "./format.js";
import { groupBy } from "./groupBy.js";
import { type Html, html, jsonScript } from "./html.js";
import { REPORT_FILE } from "./page.js";
import { renderPage, writePage } from "./shell.js";
import type { Transcript } from "./transcript.js";

const BOUNDS = { count: 400, characters: 8_000_000 };
/** Prompts whose conversations a comparison shows. */
const SHOWN = 40;

/** Writes the page of an evaluation into its folder. */
export function writeEvaluationPage(
  folder: string,
  {
    record,
    transcripts,
    config,
  }: { readonly record: EvaluationRecord; readonly transcripts: readonly Transcript[]; readonly config: unknown },
): Promise<void> {
  const { name, model, seed, temperature, seconds, prompts, samples, failed, calls, stops } = record;
  const conversations = conversationData(transcripts, BOUNDS);
  const main = html`<section aria-labelledby="numbers"><h2 id="numbers">Numbers</h2>
${table(summaryRows(record))}
<p class="note">Means over prompts; best and worst of k are expected values over k samples drawn from those of a prompt; failed conversations are in no number.</p>
${numbers("How conversations end", stops)}${numbers("Users and judges", calls)}
</section>
${conversationSection(conversations)}
${configSection(config)}`;
  const markup = renderPage({
    title: name,
    state: `evaluation, ${prompts} prompts × ${samples}`,
    facts: { model, seed, temperature, failed, duration: formatDuration(seconds) },
    main,
    data: [jsonScript("charts", { x: [0, 1], charts: [] }), jsonScript("transcripts", conversations)],
  });
  return writePage(folder, REPORT_FILE, markup);
}

/** Writes a page with two evaluations side by side: numbers, and the conversations of each prompt in two columns. */
export function writeComparisonPage(
  folder: string,
  file: string,
  comparison: Comparison,
  transcripts: readonly [readonly Transcript[], readonly Transcript[]],
): Promise<void> {
  const [first, second] = transcripts.map((all) => groupBy(all, ({ task }) => task));
  const tasks = [...first.keys()].filter((task) => second.has(task)).slice(0, SHOWN);
  const main = html`<section aria-labelledby="numbers"><h2 id="numbers">Numbers</h2>
${table(comparisonRows(comparison))}
<p class="note">Means over the prompts that both have; differences are paired by prompt; a star marks those whose interval leaves out 0.</p>
</section>
<section aria-labelledby="conversations"><h2 id="conversations">Conversations</h2>
${tasks.map((task) => pair(comparison.names, task, first.get(task)!, second.get(task)!))}
</section>`;
  const [a, b] = comparison.names;
  const facts = { first: a, second: b };
  return writePage(
    folder,
    file,
    renderPage({ title: `${a} and ${b}`, state: `${comparison.prompts} prompts`, facts, main }),
  );
}

function table([head, ...rows]: readonly (readonly string[])[]): Html {
  return html`<div class="figures"><table class="panel"><thead><tr>${head.map((cell) => html`<th scope="col">${cell}</th>`)}</tr></thead><tbody>${rows.map(
    ([name, ...cells]) => html`<tr><th scope="row">${name}</th>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`,
  )}</tbody></table></div>`;
}

function numbers(title: string, values: Readonly<Record<string, number>>): Html | undefined {
  const entries = Object.entries(values);
  if (entries.length === 0) return undefined;
  return html`<h3>${title}</h3>${table([["", ""], ...entries.map(([name, value]) => [name, formatNumber(value)])])}`;
}

function pair(names: readonly [string, string], task: number, first: Transcript[], second: Transcript[]): Html {
  return html`<details><summary>prompt ${task}: ${outcomes(first)} | ${outcomes(second)}</summary>
<div class="pair">${[first, second].map(
    ([shown], i) =>
      html`<div class="panel"><h4>${names[i]}, outcome ${formatNumber(shown.outcome)}</h4>${shown.messages.map(
        ({ role, content }) => html`<p><b>${role}</b></p><pre>${content}</pre>`,
      )}</div>`,
  )}</div></details>`;
}

function outcomes(transcripts: readonly Transcript[]): string {
  return transcripts.map(({ outcome }) => formatNumber(outcome)).join(", ");
}
