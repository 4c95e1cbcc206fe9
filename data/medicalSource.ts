import { MEDICAL_SYSTEM_PROMPT } from "./doctorTurn.js";
import { dialoguesForSft, type MedicalCase, readMedicalCases } from "./mtmeddialog.js";
import { type Source, type SourceOptions, tally } from "./source.js";
import { type Task, toTask } from "./tasks.js";

/**
 * Reads files of MTMedDialog. Each case becomes a task, opened by its self report, and each of its longest dialogues one
 * to fine-tune on. A case that stands in several files, as the published validation cases do, is one case.
 * @throws InputError as `readMedicalCases` does.
 */
export async function readMedical(options: SourceOptions): Promise<Source> {
  const { files, validationFiles = [], taskDesc, onRead } = options;
  const cases = new Map<string, MedicalCase>();
  const validationKeys = new Set<string>();
  const read: Record<string, number> = {};
  const [rl, sft] = [tally(), tally()];
  for (const file of [...files, ...validationFiles]) {
    const { cases: found, counts } = await readMedicalCases(file);
    read[file] = counts.read;
    onRead?.(file, counts.read);
    for (const [reason, n] of Object.entries(counts.dropped)) for (const each of [rl, sft]) each.add(reason, n);
    const known = found.filter(({ key }) => cases.has(key)).length;
    for (const each of found) {
      const dialogues = [...(cases.get(each.key)?.dialogues ?? []), ...each.dialogues];
      cases.set(each.key, { ...each, ...cases.get(each.key), dialogues });
      if (validationFiles.includes(file)) validationKeys.add(each.key);
    }
    rl.add("belongs to a case that is a task already", counts.used - (found.length - known));
    sft.add("has no response", counts.used - found.reduce((sum, { dialogues }) => sum + dialogues.length, 0));
  }
  const all = [...cases.values()];
  const rows = all.reduce((sum, { dialogues }) => sum + dialogues.length, 0);
  const dialogues = all.flatMap((each) => dialoguesForSft([each]).map((value) => ({ key: each.key, value })));
  sft.add("is the beginning of a longer dialogue of its case", rows - dialogues.length);
  const tasks = all.map((each) => ({ key: each.key, value: taskOf(each, taskDesc) }));
  const links = all.map(({ key }) => [key]);
  return { tasks, dialogues, links, validationKeys, columns: {}, read, dropped: { rl: rl.counts, sft: sft.counts } };
}

function taskOf(each: MedicalCase, taskDesc: string): Task {
  const { selfReport, diagnosis, recommendation, patientInformation } = each;
  return toTask({
    prompt: [
      { role: "system", content: MEDICAL_SYSTEM_PROMPT },
      { role: "user", content: selfReport },
    ],
    groundTruth: `Diagnosis: ${diagnosis}\nRecommendation: ${recommendation}`,
    singleTurnPrompt: each.enhancedDescription?.trim() || transcript(each),
    taskDesc,
    dataSource: "medical_consultation",
    interaction: "medical",
    info: {
      diagnosis,
      recommendation,
      patient_information: patientInformation.map(({ question, response }) => ({
        doctor_question: question,
        patient_response: response,
      })),
    },
  });
}

/** What the patient knows, where the file has no description of it: the self report, and each question with its answer. */
function transcript({ selfReport, patientInformation }: MedicalCase): string {
  const answers = patientInformation.map(({ question, response }) => {
    return `Doctor: ${question.join(" ")}\nPatient: ${response ? response.join(" ") : "(does not answer)"}`;
  });
  return [selfReport, ...answers].join("\n");
}
