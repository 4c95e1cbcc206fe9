import test from "ava";
import fc from "fast-check";
import { ApiError } from "../../../rl/serve/errors.js";
import { limits } from "../../../rl/serve/limits.js";
import { parseChatRequest } from "../../../rl/serve/schema.js";

const least = { model: "m", messages: [{ role: "user", content: "hi" }] };

test("what a request does not say has OpenAI's defaults", (t) => {
  t.deepEqual(parseChatRequest(least), {
    ...least,
    messages: [{ role: "user", content: "hi" }],
    sampling: { temperature: 1 },
    choices: 1,
    seed: undefined,
    maxTokens: undefined,
    stops: [],
    logprobs: false,
    topLogprobs: 0,
    stream: false,
    includeUsage: false,
  });
});

test("everything that is done is read", (t) => {
  const request = parseChatRequest({
    model: "m",
    messages: [
      { role: "developer", content: "be brief" },
      {
        role: "user",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b" },
        ],
      },
    ],
    ...{ temperature: 0.5, top_p: 0.9, top_k: 40, min_p: 0.05, n: 4, seed: -3, max_completion_tokens: 9 },
    ...{ stop: ["x", "y"], logprobs: true, top_logprobs: 5, stream: true, stream_options: { include_usage: true } },
  });
  t.deepEqual(request, {
    model: "m",
    messages: [
      { role: "system", content: "be brief" },
      { role: "user", content: "ab" },
    ],
    sampling: { temperature: 0.5, topK: 40, topP: 0.9, minP: 0.05 },
    ...{ choices: 4, seed: -3, maxTokens: 9, stops: ["x", "y"], logprobs: true, topLogprobs: 5 },
    ...{ stream: true, includeUsage: true },
  });
});

test("values that ask for no filter give none", (t) => {
  t.deepEqual(parseChatRequest({ ...least, top_p: 1, top_k: -1, min_p: 0 }).sampling, { temperature: 1 });
});

const harmless: Record<string, unknown> = {
  "null everywhere": { temperature: null, n: null, stop: null, tools: null, seed: null, stream_options: null },
  "values that ask for nothing": {
    ...{ tools: [], tool_choice: "none", response_format: { type: "text" }, modalities: ["text"], logit_bias: {} },
    ...{ presence_penalty: 0, frequency_penalty: 0, top_logprobs: 0 },
    ...{ suffix: "", echo: false, best_of: 1, repetition_penalty: 1, stop_token_ids: [], chat_template_kwargs: {} },
  },
  "fields that change nothing": {
    user: "u",
    store: true,
    metadata: { a: "b" },
    service_tier: "auto",
    prompt_cache_key: "k",
  },
  "unknown fields": { hello: { world: 1 } },
};
for (const [what, fields] of Object.entries(harmless)) {
  test(`${what}: taken`, (t) => {
    t.deepEqual(parseChatRequest({ ...least, ...(fields as object) }), parseChatRequest(least));
  });
}

const user = least.messages[0];
const wrong: Record<string, readonly [fields: unknown, param: string | null, message: RegExp]> = {
  "no object": [[1, 2], null, /^body: /],
  "no messages": [{ messages: undefined }, "messages", /messages: /],
  "an empty list of messages": [{ messages: [] }, "messages", /messages: /],
  "too many messages": [{ messages: Array(limits.messages + 1).fill(user) }, "messages", /messages: /],
  "a role that is none": [{ messages: [user, { role: "king", content: "" }] }, "messages[1].role", /one of system/],
  "a tool's message": [{ messages: [{ role: "tool", content: "" }] }, "messages[0].role", /one of system/],
  "a picture": [
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
    "messages[0].content",
    /parts of type text/,
  ],
  "a temperature in words": [{ temperature: "hot" }, "temperature", /temperature: /],
  "a temperature below 0": [{ temperature: -1 }, "temperature", /temperature: /],
  "top_p of 0": [{ top_p: 0 }, "top_p", /top_p: /],
  "too many choices": [{ n: limits.choices + 1 }, "n", /n: .*16/],
  "half a choice": [{ n: 1.5 }, "n", /n: /],
  "a seed that is no whole number": [{ seed: 0.5 }, "seed", /whole number/],
  "no tokens": [{ max_tokens: 0 }, "max_tokens", /max_tokens: /],
  "two limits": [{ max_tokens: 1, max_completion_tokens: 1 }, "max_tokens", /one of max_tokens and/],
  "five stop strings": [{ stop: [..."abcde"] }, "stop", /up to 4 texts/],
  "an empty stop string": [{ stop: "" }, "stop", /stop: /],
  "a long stop string": [{ stop: "x".repeat(limits.stopLength + 1) }, "stop", /stop: .*256/],
  "usage of a stream that is none": [{ stream_options: { include_usage: true } }, "stream_options", /stream: true/],
  tools: [{ tools: [{ type: "function", function: { name: "f" } }] }, "tools", /does not support/],
  "JSON as response": [{ response_format: { type: "json_object" } }, "response_format", /does not support/],
  audio: [{ audio: { voice: "x" } }, "audio", /does not support/],
  "a logit bias": [{ logit_bias: { "5": 100 } }, "logit_bias", /does not support/],
  "a penalty": [{ presence_penalty: 0.5 }, "presence_penalty", /does not support/],
  "the most likely tokens without log-probabilities": [{ top_logprobs: 3 }, "top_logprobs", /only with logprobs: true/],
  "too many of the most likely tokens": [{ logprobs: true, top_logprobs: 21 }, "top_logprobs", /top_logprobs: .*20/],
  "a number of log-probabilities, as in older completions": [
    { logprobs: 5 },
    "logprobs",
    /true or false.*top_logprobs/,
  ],
  "a prompt, as in older completions": [{ prompt: "hello" }, "prompt", /does not support/],
  "the best of many": [{ best_of: 3 }, "best_of", /does not support/],
  "the prompt again": [{ echo: true }, "echo", /does not support/],
  "older functions": [{ functions: [{ name: "f" }] }, "functions", /does not support/],
  "an older function's call": [
    { messages: [{ role: "assistant", content: "", function_call: { name: "f", arguments: "" } }] },
    "messages[0].function_call",
    /not supported/,
  ],
  "another penalty": [{ repetition_penalty: 1.1 }, "repetition_penalty", /does not support/],
  "answers that do not end": [{ ignore_eos: true }, "ignore_eos", /does not support/],
  "an answer in a grammar": [{ guided_regex: "a+" }, "guided_regex", /does not support/],
};
for (const [what, [fields, param, message]] of Object.entries(wrong)) {
  test(`${what}: refused, with the field at fault`, (t) => {
    const body = Array.isArray(fields) ? fields : { ...least, ...(fields as object) };
    const error = t.throws(() => parseChatRequest(body), { instanceOf: ApiError, message })!;
    t.is(error.status, 400);
    t.like(error.body.error, { type: "invalid_request_error", param });
  });
}

test("whatever JSON comes is a request or a mistake that is named", (t) => {
  const fields = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "seed",
    "max_tokens",
    "stop",
    "logprobs",
    "top_logprobs",
  ];
  fields.push("stream", "stream_options", "tools", "logit_bias", "response_format", "best_of", "chat_template_kwargs");
  const values = fc.oneof(fc.jsonValue(), fc.double(), fc.integer({ min: -3, max: 25 }), fc.boolean());
  const some = fc.dictionary(fc.constantFrom(...fields), values, { maxKeys: 3 });
  const bodies = fc.oneof(
    fc.jsonValue(),
    some.map((fields) => ({ ...least, ...fields })),
    fc.record({ model: fc.jsonValue(), messages: fc.array(fc.dictionary(fc.constantFrom("role", "content"), values)) }),
  );
  const property = fc.property(bodies, (body) => {
    try {
      t.truthy(parseChatRequest(body).model !== undefined);
    } catch (error) {
      t.true(error instanceof ApiError && error.status === 400, String(error));
    }
  });
  fc.assert(property, { numRuns: 2000 });
});
