import { createHash } from "node:crypto";
import { join } from "node:path";
import { writeWhole } from "../../lib/files.js";
import { Html, html } from "./html.js";
import { SCRIPT } from "./script.js";
import { STYLE } from "./style.js";

/** A page's parts. */
export interface PageParts {
  readonly title: string;
  /** Beside the title. */
  readonly state: string;
  /** Facts for the header in their order. */
  readonly facts: Readonly<Record<string, string | number>>;
  readonly main: Html;
  /** Data for the script, by `jsonScript`; without it the page has no script. */
  readonly data?: readonly Html[];
}

/** A whole page in one file that needs no network. */
export function renderPage({ title, state, facts, main, data }: PageParts): string {
  const { markup } = html`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>${title}</title>
<style>${new Html(STYLE)}</style>
</head>
<body>
<a class="skip" href="#conversations">Skip to the conversations</a>
<header>
<h1>${title} <span class="state">${state}</span></h1>
<dl>${Object.entries(facts).map(fact)}</dl>
</header>
<main>
${main}
</main>
<footer>Written ${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC by itpo.</footer>
${data ? html`${data}<script>${new Html(SCRIPT)}</script>` : ""}
</body>
</html>
`;
  return markup;
}

/** No request leaves the page and no script runs in it but its own. */
const POLICY = [
  "default-src 'none'",
  "style-src 'unsafe-inline'",
  `script-src 'sha256-${createHash("sha256").update(SCRIPT).digest("base64")}'`,
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

function fact([name, value]: [string, string | number]): Html {
  return html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
}

/** Writes a page into a folder: the new one takes the old one's place at once, so it may be read at any time. */
export function writePage(directory: string, file: string, markup: string): Promise<void> {
  return writeWhole(join(directory, file), markup);
}
