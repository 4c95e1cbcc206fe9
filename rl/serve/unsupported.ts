import { badRequest } from "./errors.js";

type IsHarmless = (value: unknown) => boolean;

const isEmpty: IsHarmless = (value) => Array.isArray(value) && value.length === 0;
const isOneOf =
  (...values: readonly unknown[]): IsHarmless =>
  (value) =>
    values.includes(value);
const isNever: IsHarmless = () => false;

/**
 * Fields that would change the answer and that the server does not do, with the values that ask for nothing. They are
 * refused, not ignored; fields that change nothing (`user`, `store`, `metadata`, …) and unknown ones are ignored.
 */
const UNSUPPORTED: Readonly<Record<string, IsHarmless>> = {
  tools: isEmpty,
  functions: isEmpty,
  tool_choice: isOneOf("none", "auto"),
  function_call: isOneOf("none", "auto"),
  response_format: (value) => typeof value === "object" && (value as { type?: unknown }).type === "text",
  audio: isNever,
  modalities: (value) => Array.isArray(value) && value.every((modality) => modality === "text"),
  logit_bias: (value) => typeof value === "object" && Object.keys(value as object).length === 0,
  presence_penalty: isOneOf(0),
  frequency_penalty: isOneOf(0),
  reasoning_effort: isNever,
  verbosity: isOneOf("medium"),
  web_search_options: isNever,
  top_logprobs: isOneOf(0),
};

/** @throws ApiError where a request asks for what the server does not do. */
export function refuseUnsupported(body: Readonly<Record<string, unknown>>): void {
  for (const [field, isHarmless] of Object.entries(UNSUPPORTED)) {
    const value = body[field];
    if (value === undefined || value === null || isHarmless(value)) continue;
    throw badRequest(`${field}: this server does not support it; leave it out`, field, "unsupported_parameter");
  }
}
