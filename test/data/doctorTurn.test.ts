import test from "ava";
import fc from "fast-check";
import { parseDoctorTurn } from "../../data/doctorTurn.js";

test("parseDoctorTurn", (t) => {
  const question = (text: string) => ({ kind: "question", text });
  const diagnosis = (diagnosis: string, recommendation: string) => ({ kind: "diagnosis", diagnosis, recommendation });
  const other = (text: string) => ({ kind: "other", text });
  for (const [text, turn] of [
    ["<think> why </think>\n<answer>Question: Where?</answer>", question("Where?")],
    ["<answer>Diagnosis: a cold\nRecommendation: rest: much</answer>", diagnosis("a cold", "rest: much")],
    ["Question: Where?", question("Where?")],
    ["question : Since\nwhen?", question("Since\nwhen?")],
    ["Diagnosis: a cold Recommendation: rest", diagnosis("a cold", "rest")],
    ["Recommendation: rest\nDiagnosis: a cold", diagnosis("a cold", "rest")],
    ["Diagnosis: a cold", diagnosis("a cold", "")],
    ["诊断 Diagnosis：感冒", diagnosis("感冒", "")],
    ["<think>Question: of thought?</think><answer>Diagnosis: a cold", diagnosis("a cold", "")],
    ["<think>unfinished <answer>Question: Where?", question("Where?")],
    ["<think>cut off in thought. Diagnosis: a cold", other("")],
    ["Question: Where? Diagnosis: a cold", question("Where?")],
    ["Diagnosis: a cold Question: right?", diagnosis("a cold", "")],
    ["<answer>Recommendation: rest</answer>", other("Recommendation: rest")],
    ["Question:", other("Question:")],
    ["Diagnosis: \nRecommendation: rest", other("Diagnosis: \nRecommendation: rest")],
    ["You're welcome!", other("You're welcome!")],
    ["", other("")],
  ] as const) {
    t.deepEqual(parseDoctorTurn(text) as unknown, turn, JSON.stringify(text));
  }
});

test("parseDoctorTurn takes any text, fast", (t) => {
  const piece = fc.constantFrom(
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "Question:",
    "Diagnosis:",
    "Recommendation:",
    " x ",
  );
  fc.assert(fc.property(fc.array(fc.oneof(piece, fc.string())), (pieces) => !!parseDoctorTurn(pieces.join("")).kind));
  const start = performance.now();
  for (const text of ["<think>", "<answer>", "Question ", "\n"]) parseDoctorTurn(text.repeat(20000));
  t.true(performance.now() - start < 2000);
});
