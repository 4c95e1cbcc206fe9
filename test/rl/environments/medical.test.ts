import test from "ava";
import { MEDICAL_SYSTEM_PROMPT } from "../../../data/doctorTurn.js";
import { dialoguesForSft, type MedicalCase, readMedicalCases } from "../../../data/mtmeddialog.js";
import { InputError } from "../../../lib/errors.js";
import type { Message } from "../../../models/message.js";
import {
  medicalEnvironment,
  PATIENT_DOES_NOT_KNOW,
  PATIENT_DOES_NOT_UNDERSTAND,
} from "../../../rl/environments/medical.js";
import { fixture } from "../../support.js";

let cases: MedicalCase[];
test.before(async () => {
  ({ cases } = await readMedicalCases(fixture("data", "medical.parquet")));
});

/** The knee's patient, and what they say to one turn. */
function knee(options: { systemPrompt?: string; maxWords?: number } = {}) {
  const environment = medicalEnvironment({ train: cases.slice(0, 3), heldOut: cases.slice(3), ...options });
  const episode = environment.begin(0, { split: "train", sample: 0, seed: 1 });
  const say = (content: string) => episode.reply([...episode.opening, { role: "assistant", content }]);
  return { environment, episode, say };
}
const message = (content: string) => ({ kind: "message", content });

test("the patient opens with the self report, after a system message", (t) => {
  const { environment, episode } = knee();
  t.like(environment, { name: "medical", size: 3, heldOutSize: 1 });
  t.deepEqual(episode.opening, [
    { role: "system", content: MEDICAL_SYSTEM_PROMPT },
    { role: "user", content: "My knee hurts since I fell off my bicycle (female, 31 years old)" },
  ]);
  t.is(environment.begin(0, { split: "held_out", sample: 0, seed: 1 }).opening[1].content, "I cannot sleep");
});

test("the patient answers from the record, by the closest question", (t) => {
  const { say } = knee();
  const swollen = message("Yes, it is twice as thick as the other.");
  t.deepEqual(say("<think>…</think><answer>Question: Hello, is the knee swollen?</answer>"), swollen);
  t.deepEqual(say("Question: Has the knee become swollen since?"), swollen);
  t.deepEqual(say("And does it look swollen?"), swollen, "a question needs no label");
  t.deepEqual(
    say("Question: Can you put your weight on the leg"),
    message("I can bend it a little. Standing is fine."),
  );
});

test("the patient says so when the record has no answer, or none was given", (t) => {
  const { say } = knee();
  t.deepEqual(say("Question: Do you smoke?"), message(PATIENT_DOES_NOT_KNOW));
  t.deepEqual(say("Question: Do you take any medicine?"), message(PATIENT_DOES_NOT_KNOW));
});

test("the patient does not understand what neither asks nor diagnoses", (t) => {
  const { say } = knee();
  for (const turn of ["", "Question:", "knee knee knee", "<think>cut off", "Recommendation: rest"]) {
    t.deepEqual(say(turn), message(PATIENT_DOES_NOT_UNDERSTAND), JSON.stringify(turn));
  }
});

test("a diagnosis ends the consultation", (t) => {
  t.deepEqual(knee().say("Diagnosis: a sprained knee"), { kind: "done" });
});

test("scores: the record's own dialogue earns full marks, silence none", async (t) => {
  const { episode } = knee();
  const [dialogue] = dialoguesForSft(cases);
  t.deepEqual(await episode.score(dialogue), { diagnosis: 1, recommendation: 1, token_amount: 90, format: 1 });
  t.deepEqual(await episode.score(episode.opening), { diagnosis: 0, recommendation: 0, token_amount: 0, format: 0 });

  const guess = (diagnosis: string): Message[] => [
    ...episode.opening,
    { role: "assistant", content: `Diagnosis: ${diagnosis}` },
  ];
  const right = (await episode.score(guess("sprained knee"))).diagnosis;
  const phrase = (await episode.score(guess("Based on your symptoms, you likely have"))).diagnosis;
  t.true(right > phrase, "fewer words, but those that few diagnoses have");
});

test("maxWords cuts what the patient says, systemPrompt replaces the default", (t) => {
  const { episode, say } = knee({ maxWords: 3, systemPrompt: "Be brief." });
  t.deepEqual(
    episode.opening.map(({ content }) => content),
    ["Be brief.", "My knee hurts"],
  );
  t.deepEqual(say("Question: Is the knee swollen?"), message("Yes, it is"));
  t.deepEqual(say("Question: Do you smoke?"), message(PATIENT_DOES_NOT_KNOW));
});

test("a case on both sides, and a task that does not exist, are refused", (t) => {
  t.throws(() => medicalEnvironment({ train: cases, heldOut: cases.slice(0, 1) }), { instanceOf: InputError });
  const { environment } = knee();
  t.throws(() => environment.begin(3, { split: "train", sample: 0, seed: 0 }), {
    message: /no train task 3; they are 0 to 2/,
  });
});
