import { parseDoctorTurn } from "../../data/doctorTurn.js";
import type { Message } from "../../models/message.js";
import { tokenF1 } from "./tokenF1.js";
import type { WordWeight } from "./words.js";

/** How close the recommendation beside the final diagnosis comes to the truth, measured as `diagnosisScore` does. */
export function recommendationScore(messages: readonly Message[], truth: string, weight?: WordWeight): number {
  const turn = parseDoctorTurn(messages.findLast(({ role }) => role === "assistant")?.content ?? "");
  return turn.kind === "diagnosis" ? tokenF1(turn.recommendation, truth, weight) : 0;
}
