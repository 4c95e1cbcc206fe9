import { setMaxListeners } from "node:events";
import { type ChoiceEnd, type ChoiceRequest, drawChoice } from "./choice.js";
import type { Delta } from "./choiceText.js";
import type { Engine } from "./engine.js";
import { noiseSite } from "./sampling.js";

export interface ChoicesRequest extends Omit<ChoiceRequest, "site" | "sequence"> {
  /** Answers to draw. */
  readonly count: number;
  readonly seed: number;
}

/** Where answers go as they come, by their number. */
export interface ChoicesSink {
  delta(choice: number, delta: Delta): void;
  finish(choice: number, finish: ChoiceEnd["finish"]): void;
}

/**
 * Draws several answers to one prompt, all at once; the prompt is computed once, and the answers share what the cache
 * holds of it. Each is what it would be alone. Ends when all have.
 * @throws the signal's reason where it ends them early, or what ended the first that failed; the others are ended then.
 */
export async function drawChoices(
  engine: Engine,
  { count, seed, signal, ...request }: ChoicesRequest,
  sink: ChoicesSink,
): Promise<ChoiceEnd[]> {
  signal?.throwIfAborted();
  const stop = new AbortController();
  setMaxListeners(count + 1, stop.signal);
  const end = () => stop.abort(signal?.reason);
  signal?.addEventListener("abort", end, { once: true });
  try {
    const places = await engine.openGroup(request.tokens, count, { ...request, signal: stop.signal });
    const drawing = places.map(async (sequence, choice) => {
      try {
        const options = { ...request, sequence, site: noiseSite(seed, choice), signal: stop.signal };
        const drawn = await drawChoice(engine, options, (delta) => sink.delta(choice, delta));
        sink.finish(choice, drawn.finish);
        return drawn;
      } finally {
        engine.close(sequence);
      }
    });
    for (const one of drawing) one.catch((error) => stop.abort(error));
    await Promise.allSettled(drawing);
    return await Promise.all(drawing);
  } finally {
    signal?.removeEventListener("abort", end);
  }
}
