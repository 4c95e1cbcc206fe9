import test from "ava";
import fc from "fast-check";
import type { Message } from "../../../models/message.js";
import { diagnosisScore } from "../../../rl/rewards/diagnosis.js";
import { formatScore } from "../../../rl/rewards/format.js";
import { recommendationScore } from "../../../rl/rewards/recommendation.js";
import { tokenAmount } from "../../../rl/rewards/tokenAmount.js";
import { tokenF1 } from "../../../rl/rewards/tokenF1.js";
import { contentWords, inverseDocumentFrequency } from "../../../rl/rewards/words.js";

const doctor = (content: string): Message => ({ role: "assistant", content });
const opening: Message[] = [
  { role: "system", content: "Be a doctor." },
  { role: "user", content: "It hurts." },
];

test("contentWords: lower case, no stop words, no plural s, each Han character alone", (t) => {
  t.deepEqual(contentWords("Are your bowel Movements normal? How long?"), [
    "bowel",
    "movement",
    "normal",
    "how",
    "long",
  ]);
  t.deepEqual(contentWords("38.4°C, 喉咙痛"), ["38", "4", "c", "喉", "咙", "痛"]);
  t.deepEqual(contentWords("gastritis abscess gas virus"), ["gastritis", "abscess", "gas", "virus"]);
  t.deepEqual(contentWords("is it the"), []);
});

test("inverseDocumentFrequency: nothing for what every text has, most for what none has", (t) => {
  const idf = inverseDocumentFrequency(["likely gastritis", "likely cold", "likely a cold, a cold"]);
  t.is(idf("likely"), 0);
  t.is(idf("cold"), Math.log(4 / 3));
  t.is(idf("gastritis"), Math.log(4 / 2));
  t.is(idf("tinnitus"), Math.log(4));
});

test("tokenF1 by hand", (t) => {
  t.is(tokenF1("gastritis and enteritis", "Gastritis!"), 2 / 3, "precision 1/2, recall 1");
  t.is(tokenF1("pain pain pain", "pain pain fever"), 2 / 3, "a word counts as often as both have it");
  t.is(
    tokenF1("likely gastritis", "likely cold", (word) => (word === "likely" ? 0 : 1)),
    0,
  );
  t.is(
    tokenF1("likely cold", "a cold", (word) => (word === "likely" ? 0 : 1)),
    1,
  );
  t.is(tokenF1("", "cold"), 0);
  t.is(tokenF1("the", "the"), 0, "no word that tells anything");
});

test("tokenF1 lies in [0, 1], is symmetric, and is 1 for equal texts", (t) => {
  const text = fc
    .array(fc.constantFrom("cold", "pain", "fever", "the", "喉", "ears"), { maxLength: 8 })
    .map((words) => words.join(" "));
  const weight = (word: string) => (word === "pain" ? 0.3 : 2);
  fc.assert(
    fc.property(text, text, (a, b) => {
      const f1 = tokenF1(a, b, weight);
      t.true(f1 >= 0 && f1 <= 1);
      t.true(Math.abs(f1 - tokenF1(b, a, weight)) < 1e-12);
      t.true(Math.abs(tokenF1(a, a, weight) - (contentWords(a).length ? 1 : 0)) < 1e-12);
    }),
  );
});

test("diagnosis and recommendation are those of the last assistant turn, else 0", (t) => {
  const final = doctor("<think>easy</think><answer>Diagnosis: a cold\nRecommendation: rest, water</answer>");
  const talk = [...opening, doctor("Question: Where?"), { role: "user", content: "Here." } as const, final];
  t.is(diagnosisScore(talk, "A cold."), 1);
  t.is(recommendationScore(talk, "rest"), 2 / 3);
  t.is(diagnosisScore([...talk, { role: "user", content: "Thanks!" }], "A cold."), 1, "the user may close");
  t.is(diagnosisScore([...talk, doctor("Question: Where?")], "A cold."), 0);
  for (const score of [diagnosisScore, recommendationScore]) {
    t.is(score(opening, "cold"), 0);
    t.is(score([...opening, doctor("a cold, rest")], "cold"), 0, "no label");
  }
});

test("tokenAmount counts the words of both sides after the opening", (t) => {
  t.is(tokenAmount(opening, 2), 0);
  t.is(
    tokenAmount([...opening, doctor(" Question:  Where is\nit? "), { role: "user", content: "I don't know." }], 2),
    7,
  );
});

test("format is the share of turns that ask or diagnose as asked", (t) => {
  const turns = ["Question: Where?", "Hm?", "", "Diagnosis: a cold"].map(doctor);
  t.is(formatScore([...opening, ...turns]), 0.5);
  t.is(formatScore(opening), 0);
});
