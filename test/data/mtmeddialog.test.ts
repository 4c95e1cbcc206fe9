import { existsSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { MEDICAL_SYSTEM_PROMPT } from "../../data/doctorTurn.js";
import { dialoguesForSft, readMedicalCases } from "../../data/mtmeddialog.js";
import { checkDisjoint, splitByKey, withoutKeys } from "../../data/split.js";
import { InputError } from "../../lib/errors.js";
import { fixture, root } from "../support.js";

const small = fixture("data", "medical.parquet");
const keyOf = ({ key }: { key: string }) => key;

test("rows of one patient become one case, and the counts account for every row", async (t) => {
  const { cases, counts } = await readMedicalCases(small);
  t.deepEqual(counts, { read: 11, used: 11, dropped: {}, repeatedRole: 1, unlabelled: 1 });
  t.deepEqual(
    cases.map(({ id, dialogues }) => [id, dialogues.map(({ messages }) => messages.length)]),
    [
      [0, [3, 5, 7, 9]],
      [1, [3, 5, 7]],
      [2, [3, 6]],
      [3, [3, 5]],
    ],
  );
  t.like(cases[0], {
    selfReport: "My knee hurts since I fell off my bicycle (female, 31 years old)",
    diagnosis: "Based on your symptoms, you likely have a sprained knee.",
    recommendation: "Rest the knee, cool it, and see an orthopaedist if it still hurts in a week.",
  });
  t.deepEqual(cases[0].patientInformation[0], {
    question: ["Hello, is the knee swollen?"],
    response: ["Yes,", "it is twice as thick as the other."],
  });
  t.is(cases[0].patientInformation[2].response, null, "a question that the patient did not answer");
  t.deepEqual(cases[0].dialogues[0].messages[2], {
    role: "assistant",
    content: "<think> Let me think. </think>\n<answer>Question: Hello, is the knee swollen?</answer>",
  });
});

test("rows that are no dialogue are dropped and counted by reason", async (t) => {
  const { cases, counts } = await readMedicalCases(fixture("data", "medical-unusable.parquet"));
  t.is(cases.length, 1);
  t.deepEqual(counts, {
    read: 4,
    used: 1,
    dropped: {
      "does not open with a system and a user message": 1,
      "has an empty response": 1,
      "does not end with a user message": 1,
    },
    repeatedRole: 0,
    unlabelled: 0,
  });
});

test("a case has the same key in the validation file, so it can be taken out of training", async (t) => {
  const { cases } = await readMedicalCases(small);
  const { cases: validation } = await readMedicalCases(fixture("data", "medical-val.parquet"));
  t.deepEqual(validation.map(keyOf), [cases[1].key]);
  t.throws(() => checkDisjoint({ train: cases, heldOut: validation }, keyOf), { instanceOf: InputError });
  t.deepEqual(withoutKeys(cases, validation, keyOf), [cases[0], cases[2], cases[3]]);
});

test("fine-tuning sees each turn once: the longest dialogue of each case, opened as in a consultation", async (t) => {
  const { cases } = await readMedicalCases(small);
  const dialogues = dialoguesForSft(cases);
  t.is(dialogues.length, 4);
  for (const [i, dialogue] of dialogues.entries()) {
    t.deepEqual(dialogue.slice(0, 2), [
      { role: "system", content: MEDICAL_SYSTEM_PROMPT },
      { role: "user", content: cases[i].selfReport },
    ]);
    dialogue.forEach(({ role }, at) => {
      t.is(role, at === 0 ? "system" : at % 2 ? "user" : "assistant", "sides alternate");
    });
    t.is(dialogue.at(-1)!.role, "assistant");
  }
  t.is(
    dialoguesForSft(cases, { reasoning: false })[2][2].content,
    "Question: Which ear is it?\nI mean, left or right?",
    "two turns running are joined",
  );
  t.is(dialoguesForSft(cases, { systemPrompt: "Be a doctor." })[0][0].content, "Be a doctor.");
});

test("two different endings of one consultation are both kept", async (t) => {
  const { cases } = await readMedicalCases(small);
  const [{ messages }] = cases[3].dialogues;
  const other = { messages: [...messages.slice(0, 2), { role: "assistant" as const, content: "Question: Why?" }] };
  t.is(dialoguesForSft([{ ...cases[3], dialogues: [...cases[3].dialogues, other] }]).length, 2);
});

test("the published files: every row is used, and no held-out case is in training", async (t) => {
  const real = join(root, "..", "shared", "data", "MTMedDialog_sft_train.parquet");
  if (!existsSync(real)) {
    t.log(`${real} is not here; the small file stands in for it`);
    t.is((await readMedicalCases(small)).counts.used, 11);
    return;
  }
  const { cases, counts } = await readMedicalCases(real);
  t.deepEqual(counts, { read: 5516, used: 5516, dropped: {}, repeatedRole: 3, unlabelled: 8 });
  t.is(cases.length, 993);
  t.is(cases.flatMap(({ patientInformation }) => patientInformation).length, 4584);

  const dialogues = dialoguesForSft(cases);
  t.is(dialogues.length, 993, "a case's rows are prefixes of its longest");
  const turns = dialogues.flat().filter(({ role }) => role === "assistant").length;
  t.is(turns, 5516, "one turn for each row; the one turn that has no row is joined to another");

  const validation = await readMedicalCases(real.replace("_train", "_val"));
  t.is(validation.counts.used, 549);
  t.is(validation.cases.length, 100);
  t.is(withoutKeys(cases, validation.cases, keyOf).length, 893, "every validation case is in the training file");
  const split = splitByKey(cases, keyOf, { heldOut: 0.1 });
  t.notThrows(() => checkDisjoint(split, keyOf));
  t.deepEqual([split.train.length, split.heldOut.length], [893, 100]);
});
