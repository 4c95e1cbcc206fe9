import { MEDICAL_SYSTEM_PROMPT, parseDoctorTurn } from "../../data/doctorTurn.js";
import type { MedicalCase } from "../../data/mtmeddialog.js";
import { checkDisjoint } from "../../data/split.js";
import type { Message } from "../../models/message.js";
import type { Environment, Episode } from "../environment.js";
import { diagnosisScore } from "../rewards/diagnosis.js";
import { formatScore } from "../rewards/format.js";
import { recommendationScore } from "../rewards/recommendation.js";
import { tokenAmount } from "../rewards/tokenAmount.js";
import { inverseDocumentFrequency } from "../rewards/words.js";
import { closest, wordVector } from "./similarity.js";

/** What the patient says where the record has no answer to the question. */
export const PATIENT_DOES_NOT_KNOW = "I don't know.";
/** What the patient says to a turn that neither asks nor diagnoses. */
export const PATIENT_DOES_NOT_UNDERSTAND = "Sorry, I did not understand. What would you like to know?";

/**
 * From this cosine on a recorded question is taken for the doctor's. On MTMedDialog 80 % of the paraphrased questions
 * reach it, and 20 % of the questions put to the wrong patient, many of whom were indeed asked something like it.
 */
const SAME_QUESTION = 0.15;

export interface MedicalOptions {
  readonly train: readonly MedicalCase[];
  readonly heldOut: readonly MedicalCase[];
  /** Default MEDICAL_SYSTEM_PROMPT. */
  readonly systemPrompt?: string;
  /** Cuts each of the patient's messages, the opening too, after so many words. Default: no limit. */
  readonly maxWords?: number;
}

/**
 * Consultations with a scripted patient, who opens with the case's self report, answers a question with what the record
 * holds on the closest recorded one (tf-idf cosine), and ends the consultation at a diagnosis. The patient is
 * deterministic.
 *
 * Metrics: `diagnosis` and `recommendation`, overlap with the truth in [0, 1], words weighted by their inverse document
 * frequency over the training cases' truths; `token_amount`, words after the opening; `format`, share of turns in the
 * asked form.
 *
 * @throws InputError where a case is in `train` and in `heldOut`.
 */
export function medicalEnvironment(options: MedicalOptions): Environment {
  const { train, heldOut, systemPrompt = MEDICAL_SYSTEM_PROMPT, maxWords = Number.POSITIVE_INFINITY } = options;
  checkDisjoint({ train, heldOut }, ({ key }) => key);
  const questionIdf = inverseDocumentFrequency(train.flatMap(questionsOf));
  const diagnosisIdf = inverseDocumentFrequency(train.map(({ diagnosis }) => diagnosis));
  const recommendationIdf = inverseDocumentFrequency(train.map(({ recommendation }) => recommendation));

  function consult(medicalCase: MedicalCase): Episode {
    const opening: Message[] = [
      { role: "system", content: systemPrompt },
      { role: "user", content: firstWords(medicalCase.selfReport, maxWords) },
    ];
    const questions = questionsOf(medicalCase).map((question) => wordVector(question, questionIdf));
    const answer = (question: string) => {
      const match = closest(wordVector(question, questionIdf), questions);
      const response =
        match && match.score >= SAME_QUESTION ? medicalCase.patientInformation[match.index].response : null;
      return response ? firstWords(response.join(" "), maxWords) : PATIENT_DOES_NOT_KNOW;
    };
    return {
      opening,
      reply(messages) {
        const turn = parseDoctorTurn(messages.at(-1)!.content);
        if (turn.kind === "diagnosis") return { kind: "done" };
        const isQuestion = turn.kind === "question" || /[?\uff1f]/.test(turn.text);
        return { kind: "message", content: isQuestion ? answer(turn.text) : PATIENT_DOES_NOT_UNDERSTAND };
      },
      score: (messages) => ({
        diagnosis: diagnosisScore(messages, medicalCase.diagnosis, diagnosisIdf),
        recommendation: recommendationScore(messages, medicalCase.recommendation, recommendationIdf),
        token_amount: tokenAmount(messages, opening.length),
        format: formatScore(messages),
      }),
    };
  }

  return {
    name: "medical",
    size: train.length,
    heldOutSize: heldOut.length,
    metrics: ["diagnosis", "recommendation", "token_amount", "format"],
    begin(task, { split }) {
      const cases = split === "train" ? train : heldOut;
      if (!cases[task])
        throw new RangeError(`medical: there is no ${split} task ${task}; they are 0 to ${cases.length - 1}`);
      return consult(cases[task]);
    },
  };
}

function questionsOf({ patientInformation }: MedicalCase): string[] {
  return patientInformation.map(({ question }) => question.join(" "));
}

function firstWords(text: string, limit: number): string {
  const words = text.split(/\s+/);
  return words.length > limit ? words.slice(0, limit).join(" ") : text;
}
