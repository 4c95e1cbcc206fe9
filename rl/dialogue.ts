import type { ChatRenderer, Message, Tokenizer } from "../models/index.js";
import type { TokenRange } from "./objective/index.js";

/** A conversation as a model sees it: ids, and which of them are the assistant's turns. */
export interface TokenizedDialogue {
  readonly tokens: number[];
  readonly turns: TokenRange[];
}

/** Tokenises a finished conversation as a rollout would have recorded it, each assistant turn with its end token. */
export function tokenizeDialogue(
  messages: readonly Message[],
  { chat, tokenizer }: { readonly chat: ChatRenderer; readonly tokenizer: Tokenizer },
): TokenizedDialogue {
  const first = messages.findIndex(({ role }) => role === "assistant");
  if (first < 0) throw new Error("tokenizeDialogue: the conversation has no assistant turn");
  const tokens = chat.open(messages.slice(0, first));
  const turns: TokenRange[] = [];
  let turn: number[] = [];
  for (const message of messages.slice(first)) {
    if (message.role === "assistant") {
      turn = [...tokenizer.encode(message.content), chat.stopIds[0]];
      turns.push({ start: tokens.length, end: tokens.length + turn.length });
      tokens.push(...turn);
    } else {
      tokens.push(...chat.extend(turn, message));
    }
  }
  return { tokens, turns };
}
