/** A model's reply that is not in the form that was asked for; asking again may help. */
export class ReplyError extends SyntaxError {
  override readonly name = "ReplyError";
}

/** A JSON value as JavaScript has it. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface ExtractOptions {
  /**
   * Reads as the reference implementation does: strings and keys that spell a number, true, false or null become one,
   * and of the escapes only \n, \t and \r are known, so that \u00e9 becomes u00e9. Default false: what was quoted stays
   * text, and JSON's escapes mean what they mean.
   */
  readonly compat?: boolean;
}

/** Deeper nesting is refused; a reply has one or two levels. */
const MOST_LEVELS = 200;

/**
 * The JSON value in a model's reply, from the first `{` to the last `}`, written more loosely than JSON allows: text
 * around it, single and triple quotes, line breaks in strings, a comma before a closing bracket, literals in any case and
 * Python's None. Of equal keys the last counts. Time is linear in the text's length.
 * @throws ReplyError where there is none, or something stands in it or after it that does not belong.
 */
export function extractJson(text: string, { compat = false }: ExtractOptions = {}): Json {
  const start = text.indexOf("{");
  if (start < 0) throw new ReplyError("the reply has no JSON object");
  const source = text.slice(start, Math.max(start, text.lastIndexOf("}")) + 1);
  let at = 0;

  const fail = (what: string): never => {
    throw new ReplyError(`the reply is not JSON: ${what} at character ${start + at}`);
  };
  const skipBlanks = () => {
    while (/\s/.test(source.charAt(at))) at++;
  };
  const skip = (mark: string) => {
    skipBlanks();
    if (!source.startsWith(mark, at)) return false;
    at += mark.length;
    return true;
  };

  function value(level: number): Json {
    skipBlanks();
    if (level > MOST_LEVELS) fail("too many brackets");
    const first = source.charAt(at);
    if (first === "{") return object(level);
    if (first === "[") return array(level);
    if (first === '"' || first === "'") return compat ? coerced(string()) : string();
    const word = literal();
    return word === undefined ? number() : word;
  }

  function object(level: number): Json {
    at++;
    const entries = new Map<string, Json>();
    while (!skip("}")) {
      const quote = source.charAt(at);
      if (quote !== '"' && quote !== "'") fail("a key without quotes");
      const key = string();
      if (!skip(":")) fail("no colon");
      entries.set(compat ? String(coerced(key)) : key, value(level + 1));
      if (!skip(",") && source.charAt(at) !== "}") fail("no comma");
    }
    return Object.fromEntries(entries);
  }

  function array(level: number): Json {
    at++;
    const items: Json[] = [];
    while (!skip("]")) {
      items.push(value(level + 1));
      if (!skip(",") && source.charAt(at) !== "]") fail("no comma");
    }
    return items;
  }

  function string(): string {
    const quote = source.charAt(at);
    const mark = source.startsWith(quote.repeat(3), at) ? quote.repeat(3) : quote;
    at += mark.length;
    const parts: string[] = [];
    for (let from = at; ; ) {
      const char = source.charAt(at);
      if (char === "") fail("a string without end");
      if (source.startsWith(mark, at)) {
        parts.push(source.slice(from, at));
        at += mark.length;
        return parts.join("");
      }
      at++;
      if (char !== "\\" || mark.length > 1) continue;
      parts.push(source.slice(from, at - 1), escaped());
      from = at;
    }
  }

  /** What the character behind a backslash stands for. */
  function escaped(): string {
    const code = compat ? undefined : /^u([0-9a-f]{4})/i.exec(source.slice(at, at + 5))?.[1];
    const char = source.charAt(at);
    at += code ? 5 : 1;
    if (code) return String.fromCharCode(Number.parseInt(code, 16));
    return (compat ? PLAIN_ESCAPES : ESCAPES)[char] ?? char;
  }

  function literal(): Json | undefined {
    const word = (compat ? /^(true|false|null)/i : /^(true|false|null|none)\b/i).exec(source.slice(at, at + 6))?.[0];
    if (word === undefined) return undefined;
    at += word.length;
    return LITERALS[word.toLowerCase()];
  }

  function number(): number {
    const run = /[-+0-9.eE]*/y;
    run.lastIndex = at;
    const digits = run.exec(source)![0];
    const parsed = toNumber(digits);
    if (parsed === undefined) return fail(digits ? `'${digits.slice(0, 20)}', which is no number,` : "no value");
    at += digits.length;
    return parsed;
  }

  const result = value(0);
  skipBlanks();
  return at < source.length ? fail("something after the value") : result;
}

const PLAIN_ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r" };
const ESCAPES: Readonly<Record<string, string>> = { ...PLAIN_ESCAPES, b: "\b", f: "\f" };
const LITERALS: Readonly<Record<string, Json>> = { true: true, false: false, null: null, none: null };

const DIGITS = "\\d+(?:_\\d+)*";
const NUMBER = new RegExp(`^[-+]?(?:${DIGITS}(?:\\.(?:${DIGITS})?)?|\\.${DIGITS})(?:e[-+]?${DIGITS})?$`, "i");

/** A number as Python's `int` and `float` read it: blanks around it and single underscores between digits are fine. */
function toNumber(text: string): number | undefined {
  const plain = text.trim();
  return NUMBER.test(plain) ? Number(plain.replaceAll("_", "")) : undefined;
}

function coerced(text: string): Json {
  const word = text.toLowerCase();
  return word !== "none" && Object.hasOwn(LITERALS, word) ? LITERALS[word] : (toNumber(text) ?? text);
}
