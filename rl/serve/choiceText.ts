import { type LikelyToken, type TextStream, type Tokenizer, textStream } from "../../models/index.js";
import { type StopStrings, stopStrings } from "./stopStrings.js";
import { type TokenLogprob, tokenLogprob } from "./tokenLogprob.js";

/** What is new of an answer. */
export interface Delta {
  readonly content: string;
  /** Of the tokens that begin in the text so far; empty where they are not asked for. */
  readonly logprobs: readonly TokenLogprob[];
}

/**
 * An answer's tokens as text: whole characters only, cut before the first stop string. Tokens that begin after the cut
 * have no log-probability in the result.
 */
export class ChoiceText {
  readonly #tokenizer: Tokenizer;
  readonly #wantsLogprobs: boolean;
  readonly #text: TextStream;
  readonly #stops: StopStrings;
  /** Log-probabilities not given out, with where in the text their tokens begin. */
  #held: { readonly start: number; readonly entry: TokenLogprob }[] = [];
  #seen = 0;
  #released = 0;
  #first = true;

  constructor(
    tokenizer: Tokenizer,
    { stops, logprobs }: { readonly stops: readonly string[]; readonly logprobs: boolean },
  ) {
    this.#tokenizer = tokenizer;
    this.#wantsLogprobs = logprobs;
    this.#text = textStream(tokenizer);
    this.#stops = stopStrings(stops);
  }

  /** Whether a stop string has come. */
  get stopped(): boolean {
    return this.#stops.stopped;
  }

  push(id: number, logprob: number, likely: readonly LikelyToken[] = []): Delta {
    if (this.#wantsLogprobs) {
      const entry = tokenLogprob(this.#tokenizer, { id, logprob }, likely, this.#first);
      this.#held.push({ start: this.#seen, entry });
      this.#first &&= this.#tokenizer.bytes(id).length === 0;
    }
    return this.#release(this.#seeing(this.#text.push(id)), false);
  }

  /** What is left when no more tokens come. */
  end(): Delta {
    const rest = this.#seeing(this.#text.end());
    return this.#release(rest + this.#stops.end(), !this.stopped);
  }

  #seeing(text: string): string {
    this.#seen += text.length;
    return this.#stops.push(text);
  }

  #release(content: string, all: boolean): Delta {
    this.#released += content.length;
    const count = this.#held.findIndex(({ start }) => start >= this.#released);
    const ready = this.#held.splice(0, all || count < 0 ? this.#held.length : count);
    return { content, logprobs: ready.map(({ entry }) => entry) };
  }
}
