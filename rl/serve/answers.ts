import { randomInt } from "node:crypto";
import { InputError } from "../../lib/index.js";
import { type ChoicesSink, drawChoices } from "./choices.js";
import type { Engine } from "./engine.js";
import { ApiError, badRequest } from "./errors.js";
import type { Places } from "./places.js";
import type { Usage } from "./responses.js";
import type { ChatRequest } from "./schema.js";

/** What answers a request. */
export interface Service {
  readonly engine: Engine;
  readonly places: Places;
  /** The name under which the model is offered. */
  readonly model: string;
  /** Most tokens of an answer whose request does not say. */
  readonly maxTokens: number;
  /** Most seconds that answers may take, once they have their places; what is drawn by then is the answer. Default: no limit. */
  readonly maxSeconds?: number;
}

/** Where the answers to one request go. */
export interface AnswerSink extends ChoicesSink {
  /** The request has its places; what follows is text. */
  begin(): void;
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
  const { choices: count, stops, logprobs, topLogprobs, sampling, seed = randomInt(2 ** 47) } = request;
  if (request.model !== service.model) throw unknownModel(request.model, service.model);
  if (count > engine.maxBatch) throw badRequest(`n: at most ${engine.maxBatch} on this server`, "n");
  const tokens = promptTokens(engine, request);
  const maxTokens =
    room(engine, tokens.length, request.maxTokens) ?? Math.min(service.maxTokens, engine.context - tokens.length);
  const leave = await places.take(count, signal);
  try {
    sink.begin();
    const { maxSeconds } = service;
    const deadline = maxSeconds === undefined ? undefined : performance.now() + 1000 * maxSeconds;
    const options = { tokens, maxTokens, sampling, stops, logprobs, topLogprobs, deadline };
    const drawn = await drawChoices(engine, { ...options, count, seed, signal }, sink);
    return { prompt: tokens.length, drawn: drawn.reduce((sum, each) => sum + each.tokens, 0) };
  } finally {
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
