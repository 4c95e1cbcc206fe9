import { tokenize13a } from "./tokenize13a.js";

export interface BleuOptions {
  /** What n-grams are made of. Default: the words of the mteval-v13a tokenizer, as in sacreBLEU. */
  readonly tokens?: "13a" | "whitespace" | "characters";
  /**
   * What becomes of a precision without a match (Chen and Cherry 2014):
   * `exp`, the default, halves for each such order: 1/2, 1/4, … matches (NLTK's method 3, sacreBLEU's `exp`);
   * `floor` takes 0.1 matches (method 1); `add-one` counts one more match and n-gram from pairs on, whether or not
   * there are matches (method 2); `none` takes the smallest normal double, so that BLEU is all but 0 (method 0).
   */
  readonly smoothing?: keyof typeof SMOOTHING;
  /**
   * Whether orders longer than the hypothesis are left out of the mean (as sacreBLEU does for sentences) or count as
   * one n-gram without a match (as in NLTK). Default true.
   */
  readonly effectiveOrder?: boolean;
}

/** The reference implementation's BLEU: NLTK's `sentence_bleu` handed strings, so that it counts characters. */
export const CHARACTER_BLEU: BleuOptions = { tokens: "characters", smoothing: "none", effectiveOrder: false };

const ORDERS = [1, 2, 3, 4];
const SMALLEST_NORMAL = 2.2250738585072014e-308;

/**
 * BLEU-4 of one text against one reference, in [0, 1]: the geometric mean of the clipped n-gram precisions, times
 * exp(1 − r/c) where the hypothesis is shorter. 0 where no token matches. Case counts.
 */
export function bleu(hypothesis: string, reference: string, options: BleuOptions = {}): number {
  const { tokens = "13a", smoothing = "exp", effectiveOrder = true } = options;
  const [given, truth] = [hypothesis, reference].map(TOKENIZERS[tokens]);
  const smooth = SMOOTHING[smoothing]();
  const logs: number[] = [];
  for (const n of ORDERS) {
    const total = given.length - n + 1;
    if (total < 1 && effectiveOrder) break;
    const matches = countMatches(given, truth, n);
    if (n === 1 && matches === 0) return 0;
    logs.push(Math.log(smooth(matches, Math.max(1, total), n)));
  }
  if (logs.length === 0) return 0;
  const brevity = given.length < truth.length ? 1 - truth.length / given.length : 0;
  return Math.exp(brevity + logs.reduce((sum, log) => sum + log, 0) / logs.length);
}

/** A document that a model was asked to extract, without the words that it was told to begin with. */
export function withoutCompletionPrefix(reply: string): string {
  return reply.replace(/^\s*[*_`"']*final[_ ]completion[*_`"']*\s*:[*_]*\s*/i, "").trim();
}

const TOKENIZERS: Readonly<Record<"13a" | "whitespace" | "characters", (text: string) => string[]>> = {
  "13a": tokenize13a,
  whitespace: (text) => text.match(/\S+/g) ?? [],
  characters: (text) => Array.from(text),
};

type Smooth = (matches: number, total: number, n: number) => number;

/** Each begins anew for a text. */
const SMOOTHING = {
  none: (): Smooth => (matches, total) => (matches ? matches / total : SMALLEST_NORMAL),
  floor: (): Smooth => (matches, total) => (matches || 0.1) / total,
  "add-one": (): Smooth => (matches, total, n) => (n === 1 ? matches / total : (matches + 1) / (total + 1)),
  exp: (): Smooth => {
    let missed = 0;
    return (matches, total) => (matches || 0.5 ** ++missed) / total;
  },
} as const;

/** How many n-grams of `given` are in `truth`, each at most as often as there. */
function countMatches(given: readonly string[], truth: readonly string[], n: number): number {
  const left = new Map<string, number>();
  for (const gram of ngrams(truth, n)) left.set(gram, (left.get(gram) ?? 0) + 1);
  let matches = 0;
  for (const gram of ngrams(given, n)) {
    const count = left.get(gram) ?? 0;
    if (count > 0) matches++;
    left.set(gram, count - 1);
  }
  return matches;
}

function* ngrams(tokens: readonly string[], n: number): Generator<string> {
  for (let i = 0; i + n <= tokens.length; i++) yield tokens.slice(i, i + n).join("\u0000");
}
