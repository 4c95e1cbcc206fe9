import { badRequest } from "./errors.js";

type IsHarmless = (value: unknown) => boolean;

const isEmpty: IsHarmless = (value) => Array.isArray(value) && value.length === 0;
const isOneOf =
  (...values: readonly unknown[]): IsHarmless =>
  (value) =>
    values.includes(value);
const isEmptyObject: IsHarmless = (value) => typeof value === "object" && Object.keys(value as object).length === 0;
const isNever: IsHarmless = () => false;

/**
 * Fields that would change the answer and that the server does not do, with the values that ask for nothing. They are
 * refused, not ignored; fields that change nothing (`user`, `store`, `metadata`, …) and unknown ones are ignored. From
 * `prompt` on they are those of OpenAI's older completions, then those that clients of vLLM send.
 */
const UNSUPPORTED: Readonly<Record<string, IsHarmless>> = {
  tools: isEmpty,
  functions: isEmpty,
  tool_choice: isOneOf("none", "auto"),
  function_call: isOneOf("none", "auto"),
  response_format: (value) => typeof value === "object" && (value as { type?: unknown }).type === "text",
  audio: isNever,
  modalities: (value) => Array.isArray(value) && value.every((modality) => modality === "text"),
  logit_bias: isEmptyObject,
  presence_penalty: isOneOf(0),
  frequency_penalty: isOneOf(0),
  reasoning_effort: isNever,
  verbosity: isOneOf("medium"),
  web_search_options: isNever,
  prediction: isNever,
  prompt: isNever,
  suffix: isOneOf(""),
  echo: isOneOf(false),
  best_of: isOneOf(1),
  repetition_penalty: isOneOf(1),
  length_penalty: isOneOf(1),
  use_beam_search: isOneOf(false),
  stop_token_ids: isEmpty,
  bad_words: isEmpty,
  allowed_token_ids: isNever,
  logits_processors: isEmpty,
  ignore_eos: isOneOf(false),
  min_tokens: isOneOf(0),
  prompt_logprobs: isNever,
  truncate_prompt_tokens: isNever,
  include_stop_str_in_output: isOneOf(false),
  skip_special_tokens: isOneOf(true),
  add_generation_prompt: isOneOf(true),
  continue_final_message: isOneOf(false),
  chat_template: isNever,
  chat_template_kwargs: isEmptyObject,
  documents: isEmpty,
  guided_json: isNever,
  guided_regex: isNever,
  guided_choice: isNever,
  guided_grammar: isNever,
  structured_outputs: isNever,
};

/** @throws ApiError where a request asks for what the server does not do. */
export function refuseUnsupported(body: Readonly<Record<string, unknown>>): void {
  for (const [field, isHarmless] of Object.entries(UNSUPPORTED)) {
    const value = body[field];
    if (value === undefined || value === null || isHarmless(value)) continue;
    throw badRequest(`${field}: this server does not support it; leave it out`, field, "unsupported_parameter");
  }
}
