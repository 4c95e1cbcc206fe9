import { ChoiceText, type Delta } from "./choiceText.js";
import type { DrawRequest, Engine } from "./engine.js";

export interface ChoiceRequest extends Omit<DrawRequest, "onToken"> {
  readonly stops: readonly string[];
  /** Whether the text comes with log-probabilities; with those of the `topLogprobs` most likely tokens too. */
  readonly logprobs: boolean;
}

export interface ChoiceEnd {
  readonly finish: "stop" | "length";
  /** Tokens drawn, those that end the answer included. */
  readonly tokens: number;
}

/**
 * Draws one answer and gives out its text as it comes.
 * @throws the signal's reason where it ends the answer early.
 */
export async function drawChoice(
  engine: Engine,
  { stops, logprobs, signal, ...request }: ChoiceRequest,
  onDelta: (delta: Delta) => void,
): Promise<ChoiceEnd> {
  const text = new ChoiceText(engine.tokenizer, { stops, logprobs });
  const own = new AbortController();
  const abort = () => own.abort();
  signal?.throwIfAborted();
  signal?.addEventListener("abort", abort, { once: true });
  let failure: { readonly error: unknown } | undefined;
  try {
    const { stop, ids } = await engine.draw({
      ...request,
      signal: own.signal,
      onToken(id, logprob, likely) {
        if (engine.stopIds.has(id) || failure) return;
        // An error that is thrown here would end the answers of everybody in the batch.
        try {
          onDelta(text.push(id, logprob, likely));
        } catch (error) {
          failure = { error };
        }
        if (text.stopped || failure) abort();
      },
    });
    if (failure) throw failure.error;
    signal?.throwIfAborted();
    onDelta(text.end());
    return { finish: text.stopped || stop === "stop" ? "stop" : "length", tokens: ids.length };
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
