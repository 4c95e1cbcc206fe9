import { readFileSync } from "node:fs";
import test from "ava";
import fc from "fast-check";
import { type BleuOptions, bleu, CHARACTER_BLEU, withoutCompletionPrefix } from "../../../rl/rewards/bleu.js";
import { tokenize13a } from "../../../rl/rewards/tokenize13a.js";
import { fixture } from "../../support.js";

type Smoothing = NonNullable<BleuOptions["smoothing"]>;
interface Row {
  readonly hypothesis: string;
  readonly reference: string;
  readonly tokens13a: string[];
  readonly nltkWords: Record<Smoothing, number>;
  readonly nltkCharacters: Record<Smoothing, number>;
  readonly sacrebleu: Record<"exp" | "floor", number>;
}

const { rows } = JSON.parse(readFileSync(fixture("bleu.json"), "utf8")) as { rows: Row[] };
const isClose = (a: number, b: number) => Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(a), Math.abs(b)) + 1e-300;

test("TV-32: BLEU of characters, as the reference implementation computes it", (t) => {
  const cat = "the cat sat on the mat";
  for (const [reference, hypothesis, expected] of [
    [cat, cat, 1],
    [cat, `final_completion: ${cat}`, 0.5318987],
    [cat, "the cat sat", 0.3678794],
    [cat, "", 0],
    [cat, "xyz", 0],
    ["abcdef", "abc", 4.493e-78],
    ["hello world", "hello there world", 0.5513932],
    ["aaaa", "aaaaaaaa", 0.3457208],
  ] as const) {
    const score = bleu(hypothesis, reference, CHARACTER_BLEU);
    t.true(Math.abs(score - expected) <= 1e-3 * expected * (expected < 1e-6 ? 1 : 1e-3), `${hypothesis}: ${score}`);
  }
});

test("every smoothing of NLTK 3.10.3, of words and of characters", (t) => {
  for (const { hypothesis, reference, nltkWords, nltkCharacters } of rows) {
    for (const smoothing of ["none", "floor", "add-one", "exp"] as const) {
      for (const [tokens, expected] of [
        ["whitespace", nltkWords[smoothing]],
        ["characters", nltkCharacters[smoothing]],
      ] as const) {
        const score = bleu(hypothesis, reference, { tokens, smoothing, effectiveOrder: false });
        t.true(isClose(score, expected), `${tokens}, ${smoothing}: ${hypothesis} | ${reference}: ${score} ${expected}`);
      }
    }
  }
});

test("sentence BLEU and the tokenizer of sacreBLEU 2.6.0; its default is the default here", (t) => {
  for (const { hypothesis, reference, tokens13a, sacrebleu } of rows) {
    t.deepEqual(tokenize13a(hypothesis), tokens13a);
    t.true(isClose(bleu(hypothesis, reference), sacrebleu.exp), `${hypothesis} | ${reference}`);
    t.true(isClose(bleu(hypothesis, reference, { smoothing: "floor" }), sacrebleu.floor));
  }
});

test("BLEU is in [0, 1], and 1 for a text against itself", (t) => {
  const text = fc.array(fc.constantFrom("a", "b", "c.", "1,5", "喉", "\n")).map((words) => words.join(" "));
  const options = fc.record({
    tokens: fc.constantFrom("13a", "whitespace", "characters"),
    smoothing: fc.constantFrom("none", "floor", "add-one", "exp"),
  }) as fc.Arbitrary<BleuOptions>;
  fc.assert(
    fc.property(text, text, options, (a, b, each) => {
      const score = bleu(a, b, each);
      t.true(score >= 0 && score <= 1 + 1e-12);
      if (/\S/.test(a)) t.true(isClose(bleu(a, a, each), 1));
    }),
  );
});

test("the words that a model was told to begin a document with are no part of it", (t) => {
  for (const reply of ["final_completion: A text.", "**final_completion:** A text.", " Final completion:\nA text.\n"]) {
    t.is(withoutCompletionPrefix(reply), "A text.");
  }
  t.is(withoutCompletionPrefix("A text: final_completion: no"), "A text: final_completion: no");
});
