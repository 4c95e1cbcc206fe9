import { z } from "zod";
import type { Message, Role } from "../../models/index.js";
import { badRequest } from "./errors.js";
import { limits } from "./limits.js";
import type { Sampling } from "./sampling.js";
import { refuseUnsupported } from "./unsupported.js";

/** A request for chat completions, checked. */
export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly Message[];
  readonly sampling: Sampling;
  readonly choices: number;
  readonly seed?: number;
  readonly maxTokens?: number;
  readonly stops: readonly string[];
  readonly logprobs: boolean;
  /** How many of the most likely tokens come with each log-probability. */
  readonly topLogprobs: number;
  readonly stream: boolean;
  readonly includeUsage: boolean;
}

const roles: Readonly<Record<string, Role>> = {
  system: "system",
  developer: "system",
  user: "user",
  assistant: "assistant",
};

const textPart = z.looseObject({ type: z.literal("text"), text: z.string() });
const messageForm = z.looseObject({
  role: z.enum(Object.keys(roles), { error: `must be one of ${Object.keys(roles).join(", ")}` }),
  content: z.union([z.string(), z.array(textPart)], { error: "must be text, or a list of parts of type text" }),
  tool_calls: z.array(z.unknown()).max(0, { error: "are not supported" }).nullish(),
  function_call: z.null({ error: "is not supported" }).optional(),
});
const stopForm = z.string().min(1).max(limits.stopLength);

const form = z.looseObject({
  model: z.string(),
  messages: z.array(messageForm).min(1).max(limits.messages),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  n: z.int().min(1).max(limits.choices).nullish(),
  seed: z
    .number()
    .refine((seed) => Number.isInteger(seed) && Math.abs(seed) <= 2 ** 63, {
      error: "must be a whole number of 64 bits",
    })
    .nullish(),
  max_tokens: z.int().min(1).nullish(),
  max_completion_tokens: z.int().min(1).nullish(),
  stop: z
    .union([stopForm, z.array(stopForm).max(limits.stops)], {
      error: `must be text, or up to ${limits.stops} texts, of 1 to ${limits.stopLength} characters each`,
    })
    .nullish(),
  logprobs: z.boolean({ error: "must be true or false; the most likely tokens come with top_logprobs" }).nullish(),
  top_logprobs: z.int().min(0).max(limits.topLogprobs).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
});

/** @throws ApiError that names the field at fault. */
export function parseChatRequest(body: unknown): ChatRequest {
  const parsed = form.safeParse(body);
  if (!parsed.success) throw invalid(parsed.error);
  const raw = parsed.data;
  refuseUnsupported(raw);
  const { max_tokens, max_completion_tokens, stream, stream_options } = raw;
  if (typeof max_tokens === "number" && typeof max_completion_tokens === "number") {
    throw badRequest("give one of max_tokens and max_completion_tokens", "max_tokens");
  }
  if (raw.top_logprobs && !raw.logprobs) throw badRequest("top_logprobs: only with logprobs: true", "top_logprobs");
  if (stream_options && !stream) throw badRequest("stream_options: only with stream: true", "stream_options");
  return {
    model: raw.model,
    messages: raw.messages.map(({ role, content }) => ({ role: roles[role], content: plainText(content) })),
    sampling: {
      temperature: raw.temperature ?? 1,
      ...(raw.top_k && raw.top_k > 0 && { topK: raw.top_k }),
      ...(raw.top_p && raw.top_p < 1 && { topP: raw.top_p }),
      ...(raw.min_p && { minP: raw.min_p }),
    },
    choices: raw.n ?? 1,
    seed: raw.seed ?? undefined,
    maxTokens: max_completion_tokens ?? max_tokens ?? undefined,
    stops: [raw.stop ?? []].flat(),
    logprobs: raw.logprobs ?? false,
    topLogprobs: raw.top_logprobs ?? 0,
    stream: stream ?? false,
    includeUsage: stream_options?.include_usage ?? false,
  };
}

function plainText(content: string | readonly z.infer<typeof textPart>[]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("");
}

function invalid(error: z.ZodError): ReturnType<typeof badRequest> {
  const [{ path, message }] = error.issues;
  const field = path.map((key, i) => (typeof key === "number" ? `[${key}]` : `${i ? "." : ""}${String(key)}`)).join("");
  return badRequest(`${field || "body"}: ${message}`, field || undefined);
}
