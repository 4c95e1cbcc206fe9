/** Markup that is safe to write into a page. */
export class Html {
  constructor(readonly markup: string) {}
  toString(): string {
    return this.markup;
  }
}

/** What a template may hold: text is escaped, markup stays, lists are joined, and nothing stands for nothing. */
export type HtmlPart = string | number | Html | undefined | readonly HtmlPart[];

/** Template tag for markup. Every value is escaped, for elements and for quoted attributes, unless it is `Html`. */
export function html(strings: TemplateStringsArray, ...parts: readonly HtmlPart[]): Html {
  return new Html(String.raw({ raw: strings }, ...parts.map(render)));
}

function render(part: HtmlPart): string {
  if (part === undefined) return "";
  if (part instanceof Html) return part.markup;
  if (typeof part === "object") return part.map(render).join("");
  return String(part).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * Data for `<script type="application/json">`: no `<` is left in it, so that no text can end the element. Fractions are
 * shortened to five digits.
 */
export function jsonScript(id: string, data: unknown): Html {
  const json = new Html(JSON.stringify(data, shorten).replaceAll("<", "\\u003c"));
  return html`<script type="application/json" id="${id}">${json}</script>`;
}

function shorten(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value;
}
