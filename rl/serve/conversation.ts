import { InputError } from "../../lib/index.js";
import { type CachedSequence, type Completion, type Message, textStream } from "../../models/index.js";
import type { Engine } from "./engine.js";
import { noiseSite, type Sampling } from "./sampling.js";

export interface ConversationOptions {
  readonly system?: string;
  readonly sampling: Sampling;
  /** Most tokens of an answer. */
  readonly maxTokens: number;
  readonly seed: number;
}

/** A conversation whose keys and values stay in the cache: a turn computes the new message's tokens only. */
export class Conversation {
  readonly #engine: Engine;
  readonly #options: ConversationOptions;
  readonly #sequence: CachedSequence;
  #tokens: number[] = [];
  #turn = 0;
  /** Tokens of the last answer; undefined before the first. */
  #last: readonly number[] | undefined;

  constructor(engine: Engine, options: ConversationOptions) {
    this.#engine = engine;
    this.#options = options;
    this.#sequence = engine.open();
  }

  /** Tokens so far. */
  get length(): number {
    return this.#tokens.length;
  }

  /**
   * Answers a message; what was drawn before the signal ends it stays in the conversation.
   * @param onText sees the answer as it comes
   * @throws InputError where the message does not fit; the conversation is as before then.
   */
  async say(content: string, onText: (text: string) => void, signal?: AbortSignal): Promise<Completion> {
    const { sampling, seed, maxTokens } = this.#options;
    const tokens = [...this.#tokens, ...this.#extension(content)];
    const room = this.#engine.context - tokens.length;
    if (room < 1) {
      throw new InputError(
        `the conversation would have ${tokens.length} tokens, and there is room for ${this.#engine.context - 1}`,
      );
    }
    const text = textStream(this.#engine.tokenizer);
    const completion = await this.#engine.draw({
      tokens,
      sampling,
      signal,
      sequence: this.#sequence,
      maxTokens: Math.min(maxTokens, room),
      site: noiseSite(seed, 0, this.#turn),
      onToken: (id) => {
        if (!this.#engine.stopIds.has(id)) onText(text.push(id));
      },
    });
    onText(text.end());
    this.#tokens = [...tokens, ...completion.ids];
    this.#last = completion.ids;
    this.#turn++;
    return completion;
  }

  /** Gives its place in the cache back. */
  close(): void {
    this.#engine.close(this.#sequence);
  }

  #extension(content: string): number[] {
    const message: Message = { role: "user", content };
    if (this.#last) return this.#engine.chat.extend(this.#last, message);
    const { system } = this.#options;
    return this.#engine.prompt([
      ...(system === undefined ? [] : [{ role: "system", content: system } as const]),
      message,
    ]);
  }
}
