/** What a doctor's turn says. */
export type DoctorTurn =
  | { readonly kind: "question"; readonly text: string }
  | { readonly kind: "diagnosis"; readonly diagnosis: string; readonly recommendation: string }
  | { readonly kind: "other"; readonly text: string };

/** The system message of consultations here: short, and without the think block that the dataset's own asks for. */
export const MEDICAL_SYSTEM_PROMPT = [
  "You are a doctor. Ask the patient one thing at a time, nothing twice. When you know enough, name the illness.",
  "Write either",
  "Question: what you ask",
  "or",
  "Diagnosis: the illness",
  "Recommendation: what the patient should do",
].join("\n");

/**
 * Reads a doctor's turn, with or without think block and answer tags, in any order of its labelled parts. The first
 * label of a question or a diagnosis decides which it is; one without text, a recommendation alone and unlabelled text
 * are `other`.
 */
export function parseDoctorTurn(text: string): DoctorTurn {
  const answer = answerOf(text);
  const [, ...parts] = answer.split(LABEL); // label, text, label, text, …
  const sections = new Map<string, string>();
  for (let i = 0; i < parts.length; i += 2) {
    const label = parts[i].toLowerCase();
    if (!sections.has(label)) sections.set(label, parts[i + 1].trim());
  }
  const first = [...sections.keys()].find((label) => label !== "recommendation");
  const said = sections.get(first ?? "");
  if (!said) return { kind: "other", text: answer };
  if (first === "question") return { kind: "question", text: said };
  return { kind: "diagnosis", diagnosis: said, recommendation: sections.get("recommendation") ?? "" };
}

const LABEL = /\b(question|diagnosis|recommendation)\s*[:\uff1a]/i;

/** What the doctor says to the patient: without the thoughts, even unfinished ones, and without the tags. */
export function answerOf(text: string): string {
  const thoughtEnd = text.lastIndexOf("</think>");
  const spoken = thoughtEnd < 0 ? text.replace(/<think>.*?(?=<answer>|$)/s, "") : text.slice(thoughtEnd);
  return spoken
    .replace(/^(.*?<answer>|<\/think>)/s, "")
    .replace(/<\/answer>.*$/s, "")
    .trim();
}
