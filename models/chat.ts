import { InputError } from "../lib/errors.js";
import { neutral, quote, type TemplateOptions, templateLayout } from "./chatTemplate.js";
import { memo } from "./memo.js";
import type { Message, Role } from "./message.js";
import { splitter } from "./tokenizer/addedTokens.js";
import type { Tokenizer } from "./tokenizer/tokenizer.js";

export { CHATML } from "./chatTemplate.js";

/**
 * A conversation as token ids that is never tokenised again: `open` gives the ids up to the policy's first turn; after
 * each turn the conversation is the old ids, the sampled ids as they are, and what `extend` returns.
 *
 * The template's own text is encoded with special tokens on, message contents with special tokens off: whatever a user
 * types, no control token comes of it. Template text and content between two special tokens are encoded as one string,
 * so where no content spells a special token the ids are those of the rendered text.
 */
export interface ChatRenderer {
  /**
   * Ids that end an assistant turn: the template's end-of-turn token first, then the tokenizer's end of text if it is
   * another. A model's generation_config.json may name more.
   */
  readonly stopIds: readonly number[];
  /** Ids of a conversation so far, generation prompt included. */
  open(messages: readonly Message[]): number[];
  /**
   * Ids to append after a turn: the end-of-turn token if `sampled` does not end with it (the turn was cut off, or ended
   * with the end of text), what the template puts between turns, `reply`, and the generation prompt.
   *
   * What is proven: the rendering of the conversation with this turn's text in it and `reply` after it begins with the
   * rendering before, then that text, unchanged, then exactly what is appended here. It is proven for each text and each
   * reply among neutral messages, and, when the renderer is made, for neutral conversations of up to three exchanges.
   * @throws InputError when the template rewrites the turn, as Qwen3's removes `<think>…</think>` from earlier turns,
   *   unless `onRewrite` is "keep".
   */
  extend(sampled: readonly number[], reply: Message): number[];
  /** Text of an assistant turn, special tokens left out. */
  content(sampled: readonly number[]): string;
}

export interface ChatOptions extends TemplateOptions {
  /**
   * What to do where the template would rewrite a turn once a later message follows: refuse (default), or keep the turn
   * as it was sampled, which the model then sees in another form than the template gives it in deployment.
   */
  readonly onRewrite?: "throw" | "keep";
}

/** @throws InputError when the template does not parse, or cannot be extended turn by turn. */
export function chatRenderer(tokenizer: Tokenizer, options: ChatOptions = {}): ChatRenderer {
  const { onRewrite = "throw" } = options;
  const layout = templateLayout(tokenizer.config, options);
  const splitSpecial = splitter(tokenizer.specialTokens);

  /** Ids of literals[0] contents[0] literals[1] …; only literals may hold special tokens. */
  function encode(literals: readonly string[], contents: readonly string[]): number[] {
    let ids: number[] = [];
    let plain = "";
    for (const [i, literal] of literals.entries()) {
      for (const piece of splitSpecial(literal)) {
        if (typeof piece === "string") {
          plain += piece;
        } else {
          ids = ids.concat(tokenizer.encode(plain), piece);
          plain = "";
        }
      }
      plain += contents[i] ?? "";
    }
    return ids.concat(tokenizer.encode(plain));
  }

  /** What follows an assistant's content when a message of `role` comes next: text up to its content, and after it. */
  const following = memo(8, (role: Role) => layout.literals(["user", "assistant", role]).slice(2));

  const opening = memo(256, (messages: readonly Message[]) =>
    encode(layout.literals(messages.map(({ role }) => role)), layout.contents(messages)),
  );

  const continuation = memo(1024, (reply: Message) => {
    const messages = [neutral("user", 0), neutral("assistant", 1), reply];
    return encode(following(reply.role), layout.contents(messages).slice(2));
  });

  const isKept = memo(1024, (turn: string) => {
    const messages: Message[] = [neutral("user", 0), { role: "assistant", content: turn }, neutral("user", 2)];
    return layout.contents(messages)[1] === turn;
  });

  const [endOfTurn] = continuation(neutral("user", 2));
  if (!new Set(tokenizer.specialTokens.values()).has(endOfTurn)) {
    throw new InputError("chat template: the assistant's turn does not end with a special token of the tokenizer");
  }
  if (onRewrite === "throw" && !layout.keepsHistory()) throw rewritten("earlier turns");
  const endOfText = tokenizer.specialTokens.get(tokenizer.config.eosToken ?? "") ?? endOfTurn;
  const stopIds = [...new Set([endOfTurn, endOfText])];

  const withoutStop = (sampled: readonly number[]) =>
    stopIds.includes(sampled.at(-1) ?? -1) ? sampled.slice(0, -1) : sampled;

  return {
    stopIds,
    open: (messages) => opening(messages).slice(),
    extend(sampled, reply) {
      if (onRewrite === "throw") {
        const turn = tokenizer.decode(withoutStop(sampled), { specialTokens: true });
        if (!isKept(turn)) throw rewritten(quote(turn));
      }
      return continuation(reply).slice(sampled.at(-1) === endOfTurn ? 1 : 0);
    },
    content: (sampled) => tokenizer.decode(withoutStop(sampled)),
  };
}

function rewritten(what: string): InputError {
  return new InputError(
    `chat template: ${what} would be rewritten once a later message follows, so the sampled tokens would not stay a ` +
      'prefix of the conversation; set onRewrite to "keep" to keep them as sampled, or give another template',
  );
}
