/** Who speaks in a conversation. */
export type Role = "system" | "user" | "assistant";

/** One message of a conversation, in the OpenAI chat format. */
export interface Message {
  readonly role: Role;
  readonly content: string;
}
