/**
 * Reads the JSON object in what a model wrote: from the first `{` to the last `}`, with the mistakes that models make
 * forgiven: single and triple quotes, line breaks in strings, trailing commas, `True` and `None`. Values keep their types:
 * the string "1" never becomes a number.
 * @throws SyntaxError that says what is wrong where.
 */
export function readTolerantJson(text: string): unknown {
  const start = text.indexOf("{");
  const end = text.lastIndexOf("}");
  if (start < 0) throw new SyntaxError("there is no JSON object in it");
  if (end < start) throw new SyntaxError("its JSON object has no end");
  const reader = new Reader(text.slice(start, end + 1));
  const value = reader.value();
  reader.end();
  return value;
}

const QUOTES = ['"""', "'''", '"', "'"] as const;
const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r", b: "\b", f: "\f" };
const LITERALS: readonly (readonly [RegExp, unknown])[] = [
  [/true\b/iy, true],
  [/false\b/iy, false],
  [/(null|none)\b/iy, null],
];
const NUMBER = /[-+0-9.eE]+/y;
const FORM_OF_NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/;

class Reader {
  #at = 0;
  constructor(readonly text: string) {}

  value(): unknown {
    this.#space();
    if (this.#take("{")) return this.#object();
    if (this.#take("[")) return this.#array();
    const quote = QUOTES.find((mark) => this.text.startsWith(mark, this.#at));
    if (quote) return this.#string(quote);
    for (const [form, literal] of LITERALS) if (this.#match(form) !== undefined) return literal;
    return this.#number();
  }

  end(): void {
    this.#space();
    if (this.#at < this.text.length) throw this.#error("more follows the object");
  }

  #object(): Record<string, unknown> {
    const entries: [string, unknown][] = [];
    for (this.#space(); !this.#take("}"); this.#space()) {
      const quote = QUOTES.find((mark) => this.text.startsWith(mark, this.#at));
      if (!quote) throw this.#error("a key must be in quotes");
      const key = this.#string(quote);
      this.#space();
      if (!this.#take(":")) throw this.#error("a colon is missing");
      entries.push([key, this.value()]);
      this.#separate("}");
    }
    return Object.fromEntries(entries);
  }

  #array(): unknown[] {
    const values: unknown[] = [];
    for (this.#space(); !this.#take("]"); this.#space()) {
      values.push(this.value());
      this.#separate("]");
    }
    return values;
  }

  /** A comma, or the end in sight. */
  #separate(closing: string): void {
    this.#space();
    if (!this.#take(",") && this.text[this.#at] !== closing) throw this.#error(`',' or '${closing}' is missing`);
  }

  #string(quote: (typeof QUOTES)[number]): string {
    this.#at += quote.length;
    let value = "";
    for (;;) {
      if (this.#at >= this.text.length) throw this.#error("a string has no end");
      if (this.#take(quote)) return value;
      const character = this.text[this.#at++];
      value += character === "\\" && quote.length === 1 ? this.#escape() : character;
    }
  }

  #escape(): string {
    const unicode = this.#match(/u[0-9a-fA-F]{4}/y);
    if (unicode) return String.fromCharCode(Number.parseInt(unicode.slice(1), 16));
    const character = this.text[this.#at++] ?? "";
    return ESCAPES[character] ?? character;
  }

  #number(): number {
    const digits = this.#match(NUMBER);
    if (digits === undefined || !FORM_OF_NUMBER.test(digits)) throw this.#error("a value is missing or no value");
    return Number(digits);
  }

  #space(): void {
    this.#match(/\s+/y);
  }

  #take(mark: string): boolean {
    if (!this.text.startsWith(mark, this.#at)) return false;
    this.#at += mark.length;
    return true;
  }

  #match(form: RegExp): string | undefined {
    form.lastIndex = this.#at;
    const found = form.exec(this.text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #error(what: string): SyntaxError {
    const near = this.text.slice(Math.max(0, this.#at - 12), this.#at + 12).replace(/\s+/g, " ");
    return new SyntaxError(`${what}, near '${near}'`);
  }
}
