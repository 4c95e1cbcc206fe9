import { randomInt } from "node:crypto";
import { setMaxListeners } from "node:events";
import { InputError } from "../../lib/index.js";
import { type ChoiceEnd, drawChoice } from "./choice.js";
import type { Delta } from "./choiceText.js";
import type { Engine } from "./engine.js";
import { ApiError, badRequest } from "./errors.js";
import type { Places } from "./places.js";
import type { Usage } from "./responses.js";
import { noiseSite } from "./sampling.js";
import type { ChatRequest } from "./schema.js";

/** What answers a request. */
export interface Service {
  readonly engine: Engine;
  readonly places: Places;
  /** The name under which the model is offered. */
  readonly model: string;
  /** Most tokens of an answer whose request does not say. */
  readonly maxTokens: number;
}

/** Where the answers to one request go. */
export interface AnswerSink {
  /** The request has its places; what follows is text. */
  begin(): void;
  delta(choice: number, delta: Delta): void;
  finish(choice: number, finish: ChoiceEnd["finish"]): void;
}

/**
 * Draws all answers to a request.
 * @throws ApiError where the request does not fit, or the signal's reason where that ends it early.
 */
export async function drawAnswers(
  { engine, places, ...service }: Service,
  request: ChatRequest,
  sink: AnswerSink,
  signal: AbortSignal,
): Promise<Usage> {
  const { choices, stops, logprobs, sampling, seed = randomInt(2 ** 47) } = request;
  if (request.model !== service.model) throw unknownModel(request.model, service.model);
  if (choices > engine.maxBatch) throw badRequest(`n: at most ${engine.maxBatch} on this server`, "n");
  const tokens = promptTokens(engine, request);
  const maxTokens =
    room(engine, tokens.length, request.maxTokens) ?? Math.min(service.maxTokens, engine.context - tokens.length);
  const leave = await places.take(choices, signal);
  const stop = new AbortController();
  setMaxListeners(choices, stop.signal);
  const end = () => stop.abort(signal.reason);
  signal.addEventListener("abort", end, { once: true });
  try {
    sink.begin();
    const drawing = Array.from({ length: choices }, async (_, choice) => {
      const site = noiseSite(seed, choice);
      const options = { tokens, maxTokens, sampling, stops, logprobs, site, signal: stop.signal };
      const drawn = await drawChoice(engine, options, (delta) => sink.delta(choice, delta));
      sink.finish(choice, drawn.finish);
      return drawn.tokens;
    });
    for (const one of drawing) one.catch((error) => stop.abort(error));
    await Promise.allSettled(drawing);
    const counts = await Promise.all(drawing);
    return { prompt: tokens.length, drawn: counts.reduce((a, b) => a + b, 0) };
  } finally {
    signal.removeEventListener("abort", end);
    leave();
  }
}

function unknownModel(asked: string, offered: string): ApiError {
  const message = `model '${asked}' does not exist; this server has '${offered}'`;
  return new ApiError(404, message, { param: "model", code: "model_not_found" });
}

function promptTokens(engine: Engine, { messages }: ChatRequest): number[] {
  try {
    return engine.prompt(messages);
  } catch (error) {
    throw error instanceof InputError ? badRequest(error.message, "messages") : error;
  }
}

/** The tokens asked for, if there is room for them. */
function room({ context }: Engine, prompt: number, asked: number | undefined): number | undefined {
  if (prompt + (asked ?? 1) <= context) return asked;
  const more = asked === undefined ? "" : ` and ${asked} more`;
  throw badRequest(
    `${prompt} tokens of messages${more} exceed the context of ${context}; shorten the messages${more && " or lower max_tokens"}`,
    "messages",
    "context_length_exceeded",
  );
}
