import type { Message } from "../../../models/message.js";

const NAMES: Readonly<Record<string, string>> = { user: "User", assistant: "Assistant" };
const THOUGHTS = /<think>[\s\S]*?<\/think>/g;

/**
 * A conversation for a reader, a message a paragraph: without system messages, and without what the assistant thought
 * and did not say. The messages stay as they are.
 */
export function formatHistory(messages: readonly Message[]): string {
  return messages
    .filter(({ role }) => role in NAMES)
    .map(({ role, content }) => `**${NAMES[role]}**: ${content.replace(THOUGHTS, "").trim()}`)
    .join("\n\n");
}

/** Material between marks that it cannot close itself. */
export function quoted(name: string, text: string): string {
  return `<${name}>\n${text.replace(new RegExp(`<(/\\s*${name}\\s*>)`, "gi"), "< $1")}\n</${name}>`;
}
