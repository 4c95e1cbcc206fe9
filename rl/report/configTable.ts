import { groupBy } from "./groupBy.js";
import { type Html, html } from "./html.js";

const SECRET = /(api_?key|password|secret|credential|(access|auth|bearer)_?token)$/i;

/** A tree of plain values as tables, one for each top-level branch and one row for each leaf. Secrets are not shown. */
export function configSection(config: unknown): Html {
  const groups = groupBy(leaves(config, []), ({ path }) => (path.length > 1 ? path[0] : ""));
  return html`<section aria-labelledby="config"><h2 id="config">Configuration</h2>
<div class="config">${[...groups].map(([name, rows]) => table(name, rows))}</div>
</section>`;
}

function table(name: string, rows: readonly Leaf[]): Html {
  const start = name === "" ? 0 : 1;
  return html`<table class="panel"><caption>${name}</caption><tbody>${rows.map(
    ({ path, text }) => html`<tr><th scope="row">${path.slice(start).join(".")}</th><td>${text}</td></tr>`,
  )}</tbody></table>`;
}

interface Leaf {
  readonly path: readonly string[];
  readonly text: string;
}

function leaves(value: unknown, path: readonly string[]): Leaf[] {
  if (value === undefined) return [];
  if (SECRET.test(path.at(-1) ?? "")) return [{ path, text: "(hidden)" }];
  if (value === null || typeof value !== "object" || Array.isArray(value) || Object.keys(value).length === 0) {
    return [{ path, text: typeof value === "string" ? value : String(JSON.stringify(value)) }];
  }
  return Object.entries(value).flatMap(([key, child]) => leaves(child, [...path, key]));
}
