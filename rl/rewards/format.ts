import { parseDoctorTurn } from "../../data/doctorTurn.js";
import type { Message } from "../../models/message.js";

/** Share of the assistant's turns, in [0, 1], that are a labelled question or diagnosis; 0 where there are none. */
export function formatScore(messages: readonly Message[]): number {
  const turns = messages.filter(({ role }) => role === "assistant").map(({ content }) => parseDoctorTurn(content));
  return turns.length ? turns.filter(({ kind }) => kind !== "other").length / turns.length : 0;
}
