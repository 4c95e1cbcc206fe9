import OpenAI, { APIConnectionError, APIError } from "openai";
import { CallError, type CallFault } from "./callError.js";
import type { ChatCall, ChatModel, ChatReply } from "./chatModel.js";

export interface RemoteOptions {
  /** Up to and with `/v1`. */
  readonly url: string;
  /** What the server calls the model. */
  readonly model: string;
  readonly apiKey?: string;
  /** Whether replies are held to a JSON schema by the server: `auto` asks for it until the server refuses. Default `auto`. */
  readonly structured?: "auto" | "schema" | "text";
}

/** The caller's signal ends an attempt, the client's own limit never does. */
const NEVER = 2 ** 31 - 1;

/** A model behind a server that speaks OpenAI's chat API. One attempt a call: retries are the caller's. */
export function remoteModel({ url, model, apiKey = "none", structured = "auto" }: RemoteOptions): ChatModel {
  const client = new OpenAI({ baseURL: url, apiKey, maxRetries: 0, timeout: NEVER });
  let asksForSchema = structured !== "text";

  const send = ({ messages, sampling, schema }: ChatCall, signal: AbortSignal) =>
    client.chat.completions.create(
      {
        model,
        messages: messages.map(({ role, content }) => ({ role, content }) as OpenAI.ChatCompletionMessageParam),
        temperature: sampling.temperature,
        ...(sampling.topP !== undefined && { top_p: sampling.topP }),
        max_tokens: sampling.maxTokens,
        seed: sampling.seed,
        ...(schema &&
          asksForSchema && { response_format: { type: "json_schema", json_schema: { ...schema, strict: true } } }),
      },
      { signal },
    );

  return {
    name: `${model} at ${url}`,
    async complete(call, signal) {
      const asked = call.schema !== undefined && asksForSchema;
      try {
        return readReply(await send(call, signal));
      } catch (error) {
        if (!(asked && structured === "auto" && refusesSchema(error))) throw asCallError(error, signal, url);
      }
      asksForSchema = false;
      try {
        return readReply(await send(call, signal));
      } catch (error) {
        throw asCallError(error, signal, url);
      }
    },
  };
}

function refusesSchema(error: unknown): boolean {
  return (
    error instanceof APIError &&
    (error.status === 400 || error.status === 422) &&
    /response_format|json_schema|structured|guided/i.test(`${error.message} ${error.param}`)
  );
}

/** Servers that are compatible by their own account may send anything. */
function readReply(completion: Partial<OpenAI.ChatCompletion>): ChatReply {
  const choice = completion.choices?.[0];
  if (!choice?.message)
    throw new CallError(
      "server",
      "the server's answer is no chat completion; its address must be that of an OpenAI-compatible API, up to and with /v1",
    );
  const { content } = choice.message;
  return {
    text: typeof content === "string" ? content : "",
    finish: choice.finish_reason === "length" ? "length" : "stop",
    promptTokens: completion.usage?.prompt_tokens ?? 0,
    completionTokens: completion.usage?.completion_tokens ?? 0,
  };
}

function asCallError(error: unknown, signal: AbortSignal, url: string): unknown {
  if (error instanceof CallError) return error;
  if (signal.aborted) return signal.reason;
  if (error instanceof APIConnectionError)
    return new CallError("connection", `no connection to ${url} (${causeOf(error)})`);
  if (error instanceof APIError && error.status !== undefined) {
    return new CallError(
      faultOf(error.status),
      `HTTP ${error.message}${advice[error.status] ?? ""}`,
      retryAfter(error.headers),
    );
  }
  // The body was cut off, or is no JSON in spite of its header.
  return new CallError("connection", `the answer broke off (${causeOf(error)})`);
}

const advice: Readonly<Record<number, string>> = {
  401: "; set the API key (apiKeyEnv names its variable)",
  404: "; check the server's address, up to and with /v1, and the model's name",
};

function faultOf(status: number): CallFault {
  if (status === 429) return "rate_limit";
  return status >= 500 || status === 408 || status === 409 ? "server" : "refused";
}

/** Seconds, which the header gives as such or as a date. */
function retryAfter(headers: Headers | undefined): number {
  const value = headers?.get("retry-after") ?? "";
  const seconds = /^\s*\d/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return seconds > 0 ? seconds : 0;
}

function causeOf(error: unknown): string {
  for (let inner = error; ; inner = (inner as Error).cause) {
    const { cause, code, message } = inner as NodeJS.ErrnoException;
    if (!(cause instanceof Error)) return code ?? message ?? String(inner);
  }
}
