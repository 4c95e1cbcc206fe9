import { createHash } from "node:crypto";
import { z } from "zod";
import type { Message } from "../models/message.js";
import { checkedRows, messageForm } from "./checkedRows.js";
import { answerOf, MEDICAL_SYSTEM_PROMPT, parseDoctorTurn } from "./doctorTurn.js";

/** What the doctor can ask about and what the patient then says. */
export interface PatientInformation {
  readonly question: readonly string[];
  /** Null where the patient of the record did not answer. */
  readonly response: readonly string[] | null;
}

/** One row of the file: a consultation up to one of the doctor's turns, which comes last. */
export interface MedicalDialogue {
  /** system, user, assistant, …, user, assistant; raw, with the file's own system prompt, instructions and tags. */
  readonly messages: readonly Message[];
}

/** One consultation, whose rows all have the same patient and the same truth. */
export interface MedicalCase {
  /** Position of the case in its file, from 0. */
  readonly id: number;
  /** Hash of self report and truth: the same case has the same key in every file. */
  readonly key: string;
  /** How the patient opens, without the instructions that the file puts around it. */
  readonly selfReport: string;
  readonly diagnosis: string;
  readonly recommendation: string;
  /** What the first row of the case says. */
  readonly patientInformation: readonly PatientInformation[];
  /** The whole story in the patient's words, which only the file for reinforcement learning has. */
  readonly enhancedDescription?: string;
  /** One per row with a response, in the file's order. In the published file each is a prefix of the case's longest. */
  readonly dialogues: readonly MedicalDialogue[];
}

/** What became of the rows. `read` = `used` + all of `dropped`. */
export interface MedicalCounts {
  readonly read: number;
  readonly used: number;
  readonly dropped: Readonly<Record<string, number>>;
  /** Used rows in which one side speaks twice running. `dialoguesForSft` joins the two messages by a line break. */
  readonly repeatedRole: number;
  /** Used rows whose last turn is labelled neither `Question:` nor `Diagnosis:`. */
  readonly unlabelled: number;
}

const rowSchema = z.object({
  prompt: z.array(messageForm),
  response: z.string().nullish(),
  reward_model: z.object({
    ground_truth: z.object({ diagnosis: z.string(), recommendation: z.string() }),
    patient_information: z.array(
      z.object({ doctor_question: z.array(z.string()), patient_response: z.array(z.string()).nullable() }),
    ),
    enhanced_description: z.string().nullish(),
  }),
});

/**
 * Reads a file of MTMedDialog, parquet, JSON or JSONL, with the columns prompt, reward_model and response, into
 * cases. Without a response (as in the file for reinforcement learning) a row tells the case and no dialogue.
 * @throws InputError where the file cannot be read, or a row is not of that form.
 */
export async function readMedicalCases(path: string): Promise<{ cases: MedicalCase[]; counts: MedicalCounts }> {
  const cases = new Map<string, MedicalCase & { dialogues: MedicalDialogue[] }>();
  const dropped: Record<string, number> = {};
  let read = 0;
  let used = 0;
  let repeatedRole = 0;
  let unlabelled = 0;

  for await (const data of checkedRows(
    path,
    rowSchema,
    "Choose a file of MTMedDialog as it was published, not one that itpo data prepare wrote.",
  )) {
    read++;
    const reason = whyUnusable(data);
    if (reason) {
      dropped[reason] = (dropped[reason] ?? 0) + 1;
      continue;
    }
    const { diagnosis, recommendation } = data.reward_model.ground_truth;
    const selfReport = unwrapSelfReport(data.prompt[1].content);
    const key = hash([selfReport, diagnosis, recommendation]);
    if (!cases.has(key)) {
      const patientInformation = data.reward_model.patient_information.map((item) => ({
        question: item.doctor_question,
        response: item.patient_response,
      }));
      const enhancedDescription = data.reward_model.enhanced_description ?? undefined;
      const truth = { diagnosis, recommendation, patientInformation, enhancedDescription };
      cases.set(key, { id: cases.size, key, selfReport, ...truth, dialogues: [] });
    }
    used++;
    if (typeof data.response !== "string") continue;
    const messages: Message[] = [...data.prompt, { role: "assistant", content: data.response }];
    if (joinSameRole(messages).length < messages.length) repeatedRole++;
    if (parseDoctorTurn(data.response).kind === "other") unlabelled++;
    cases.get(key)!.dialogues.push({ messages });
  }
  return { cases: [...cases.values()], counts: { read, used, dropped, repeatedRole, unlabelled } };
}

/**
 * The conversations to fine-tune on: of each case the longest dialogues, those that are no prefix of another (in the
 * published file one per case, which contains the case's other rows turn for turn). So every assistant turn is trained
 * once, where training on whole rows would train a case's first turn once per row.
 */
export function dialoguesForSft(
  cases: readonly MedicalCase[],
  options: {
    /** Default MEDICAL_SYSTEM_PROMPT, with which the scripted patient's conversations open too. */
    readonly systemPrompt?: string;
    /** Whether the doctor's think block and tags stay (default), or only the answer's text. */
    readonly reasoning?: boolean;
  } = {},
): Message[][] {
  const { systemPrompt = MEDICAL_SYSTEM_PROMPT, reasoning = true } = options;
  return cases.flatMap(({ selfReport, dialogues }) =>
    longest(dialogues).map(({ messages }) => {
      const turns = messages
        .slice(2)
        .map((turn) => (turn.role === "assistant" && !reasoning ? { ...turn, content: answerOf(turn.content) } : turn));
      return joinSameRole([{ role: "system", content: systemPrompt }, { role: "user", content: selfReport }, ...turns]);
    }),
  );
}

/** Why a row cannot be a dialogue in which the doctor answers the patient, if it cannot. */
function whyUnusable({ prompt, response }: z.infer<typeof rowSchema>): string | undefined {
  const [system, user] = prompt;
  if (system?.role !== "system" || user?.role !== "user") return "does not open with a system and a user message";
  if (prompt.at(-1)!.role !== "user") return "does not end with a user message";
  return response?.trim() === "" ? "has an empty response" : undefined;
}

function joinSameRole(messages: readonly Message[]): Message[] {
  const joined: Message[] = [];
  for (const message of messages) {
    const isSameRole = joined.at(-1)?.role === message.role;
    const content = isSameRole ? `${joined.pop()!.content}\n${message.content}` : message.content;
    joined.push({ role: message.role, content });
  }
  return joined;
}

/** The patient's words in "Patient's description: … Decide next action: …". */
function unwrapSelfReport(text: string): string {
  return text
    .replace(/^Patient's description:/, "")
    .replace(/\nDecide next action:.*$/s, "")
    .trim();
}

function longest(dialogues: readonly MedicalDialogue[]): MedicalDialogue[] {
  const kept: MedicalDialogue[] = [];
  for (const dialogue of [...dialogues].sort((a, b) => b.messages.length - a.messages.length)) {
    if (!kept.some((other) => isPrefix(dialogue.messages, other.messages))) kept.push(dialogue);
  }
  return kept;
}

function isPrefix(messages: readonly Message[], whole: readonly Message[]): boolean {
  return messages.every(({ role, content }, i) => whole[i]?.role === role && whole[i].content === content);
}

function hash(parts: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16);
}
