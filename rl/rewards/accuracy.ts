import type { Message } from "../../models/message.js";
import { extractJson, ReplyError } from "../llm/extractJson.js";

/**
 * The verdict in a judge's reply `{"thought": …, "accuracy": 0 or 1}`, written as a number, a numeral or a boolean.
 * @throws ReplyError where a field is missing or the verdict is neither; the reference implementation takes any number.
 */
export function accuracyOf(reply: string): 0 | 1 {
  const verdict = extractJson(reply);
  const fields = (typeof verdict === "object" && verdict !== null ? verdict : {}) as Record<string, unknown>;
  for (const name of ["thought", "accuracy"]) {
    if (!Object.hasOwn(fields, name)) throw new ReplyError(`the reply has no '${name}'`);
  }
  const said = typeof fields.accuracy === "object" ? "" : String(fields.accuracy).trim().toLowerCase();
  if (/^(true|1|1\.0)$/.test(said)) return 1;
  if (/^(false|0|0\.0)$/.test(said)) return 0;
  throw new ReplyError(`the reply's accuracy is '${said.slice(0, 40)}'; it must be 0 or 1`);
}

/**
 * Whether the last assistant message gives the true answer, without a judge: 1 where both final answers are written
 * alike or are the same number, else 0. A stand-in that misses answers which are equal but written otherwise.
 */
export function exactAccuracy(messages: readonly Message[], truth: string): 0 | 1 {
  const given = finalAnswer(messages.findLast(({ role }) => role === "assistant")?.content ?? "");
  const wanted = finalAnswer(truth) ?? truth;
  if (given === undefined) return 0;
  const [a, b] = [given, wanted].map(plainAnswer);
  return a !== "" && b !== "" && (a === b || Number(a) === Number(b)) ? 1 : 0;
}

/**
 * What a worked solution ends with: the content of its last `\boxed{…}`, else what follows the last "####" or "answer
 * is" on its line. Undefined where there is none.
 */
export function finalAnswer(text: string): string | undefined {
  const boxed = text.lastIndexOf("\\boxed{");
  if (boxed >= 0) return insideBraces(text, boxed + "\\boxed".length);
  const lower = text.toLowerCase();
  const [at, mark] = ["####", "answer is"].map((each) => [lower.lastIndexOf(each), each] as const).sort(byPlace)[0];
  if (at < 0) return undefined;
  const rest = text.slice(at + mark.length).split("\n")[0];
  return rest.replace(/^\s*:/, "").trim().replace(/\.$/, "") || undefined;
}

function byPlace([a]: readonly [number, string], [b]: readonly [number, string]): number {
  return b - a;
}

/** The text between the brace at `open` and the one that closes it. */
function insideBraces(text: string, open: number): string | undefined {
  let depth = 0;
  for (let i = open; i < text.length; i++) {
    if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return text.slice(open + 1, i).trim();
  }
  return undefined;
}

/** An answer without what changes how it looks and not what it says: spaces, dollars, \left and \right, thousands' commas. */
function plainAnswer(answer: string): string {
  return answer
    .replace(/\\(left|right|displaystyle|,|!|;|\$)/g, "")
    .replace(/\\[dt]frac/g, "\\frac")
    .replace(/\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}/g, "$1")
    .replace(/[\s$*]/g, "")
    .replace(/(\d),(?=\d{3}(?!\d))/g, "$1")
    .toLowerCase();
}
