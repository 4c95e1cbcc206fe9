import test from "ava";
import fc from "fast-check";
import { closest, cosine, wordVector } from "../../../rl/environments/similarity.js";
import { inverseDocumentFrequency } from "../../../rl/rewards/words.js";

const questions = [
  "Hello, how long has this been going on?",
  "Do you have a fever?",
  "Are your bowel movements normal? Is the stool black?",
  "Do you take any medicine? Are you allergic?",
];
const idf = inverseDocumentFrequency(questions);
const vectors = questions.map((question) => wordVector(question, idf));
const find = (question: string) => closest(wordVector(question, idf), vectors)!;

test("a recorded question finds itself with cosine 1, a paraphrase finds it too", (t) => {
  for (const [index, question] of questions.entries()) {
    t.is(find(question).index, index);
    t.true(Math.abs(find(question).score - 1) < 1e-12);
  }
  t.is(find("For how long have you had the pain?").index, 0);
  t.is(find("How high was the fever?").index, 1);
  t.is(find("What about your bowel movement?").index, 2);
  t.is(find("Have you taken medicine").index, 3);
});

test("texts without a common word have cosine 0, and the first of equals is taken", (t) => {
  t.deepEqual(find("Where were you born?"), { index: 0, score: 0 });
  t.deepEqual(find(""), { index: 0, score: 0 });
  t.is(closest(wordVector("fever", idf), []), undefined);
});

test("cosine by hand", (t) => {
  const unit = wordVector("pain fever", () => 1);
  t.true(
    Math.abs(
      cosine(
        unit,
        wordVector("pain", () => 1),
      ) - Math.SQRT1_2,
    ) < 1e-12,
  );
  const twice = wordVector("pain pain fever", () => 1); // (1 + ln 2, 1) scaled
  t.true(Math.abs(twice.get("pain")! / twice.get("fever")! - (1 + Math.log(2))) < 1e-12);
});

test("a vector has length 1 or is empty, and cosines lie in [0, 1]", (t) => {
  fc.assert(
    fc.property(fc.string(), fc.lorem(), (a, b) => {
      const [u, v] = [wordVector(a + b, idf), wordVector(b, idf)];
      const length = Math.hypot(...u.values());
      t.true(u.size === 0 || Math.abs(length - 1) < 1e-9);
      t.true(cosine(u, v) >= 0 && cosine(u, v) <= 1);
    }),
  );
});
