import { parseDoctorTurn } from "../../data/doctorTurn.js";
import type { Message } from "../../models/message.js";
import { tokenF1 } from "./tokenF1.js";
import type { WordWeight } from "./words.js";

/**
 * How close the diagnosis that ends the consultation comes to the truth: `tokenF1` in [0, 1]; 0 where the last
 * assistant turn makes none. It stands in for an expert's judgement offline. Weigh the words by their inverse document
 * frequency over the truths: on MTMedDialog the best single answer to all 993 cases earns 0.49 unweighted and 0.25
 * weighted.
 */
export function diagnosisScore(messages: readonly Message[], truth: string, weight?: WordWeight): number {
  const turn = parseDoctorTurn(messages.findLast(({ role }) => role === "assistant")?.content ?? "");
  return turn.kind === "diagnosis" ? tokenF1(turn.diagnosis, truth, weight) : 0;
}
