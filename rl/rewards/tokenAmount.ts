import type { Message } from "../../models/message.js";

/**
 * Words, separated by white space, in all messages after the first `openingLength`, the user's included: the
 * reference's `token_amount`, to be weighted negatively. Words, not tokens.
 */
export function tokenAmount(messages: readonly Message[], openingLength: number): number {
  return messages.slice(openingLength).reduce((sum, { content }) => sum + (content.match(/\S+/g)?.length ?? 0), 0);
}
