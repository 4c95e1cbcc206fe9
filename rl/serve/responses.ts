import { randomUUID } from "node:crypto";
import type { ChatCompletion, ChatCompletionChunk } from "openai/resources/chat/completions";
import type { Delta } from "./choiceText.js";

/** Tokens of a request: the prompt once, all answers together. */
export interface Usage {
  readonly prompt: number;
  readonly drawn: number;
}

type Finish = "stop" | "length";

/** What the parts of one response have in common. */
export interface ResponseHead {
  readonly id: string;
  readonly created: number;
  readonly model: string;
}

export function responseHead(model: string): ResponseHead {
  return { id: `chatcmpl-${randomUUID()}`, created: unixTime(), model };
}

/** Seconds since 1970. */
export function unixTime(): number {
  return Math.floor(Date.now() / 1000);
}

/** A whole response. */
export function completion(
  head: ResponseHead,
  choices: readonly (Delta & { readonly finish: Finish })[],
  usage: Usage,
  logprobs: boolean,
): ChatCompletion {
  return {
    ...head,
    object: "chat.completion",
    choices: choices.map((choice, index) => ({
      index,
      message: { role: "assistant", content: choice.content, refusal: null },
      logprobs: logprobs ? logprobsOf(choice) : null,
      finish_reason: choice.finish,
    })),
    usage: usageJson(usage),
  };
}

/** Chunks of a streamed response. */
export interface ChunkMaker {
  /** The first of a choice. */
  role(index: number): ChatCompletionChunk;
  content(index: number, delta: Delta): ChatCompletionChunk;
  /** The last of a choice. */
  finish(index: number, finish: Finish): ChatCompletionChunk;
  /** The last of all, where usage is asked for. */
  usage(usage: Usage): ChatCompletionChunk;
}

export function chunkMaker(
  head: ResponseHead,
  { logprobs, includeUsage }: { readonly logprobs: boolean; readonly includeUsage: boolean },
): ChunkMaker {
  type Choice = ChatCompletionChunk["choices"][number];
  const chunk = (...choices: Choice[]): ChatCompletionChunk => ({
    ...head,
    object: "chat.completion.chunk",
    choices,
    ...(includeUsage && { usage: null }),
  });
  return {
    role: (index) => chunk({ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }),
    content: (index, delta) =>
      chunk({
        index,
        delta: { content: delta.content },
        logprobs: logprobs ? logprobsOf(delta) : null,
        finish_reason: null,
      }),
    finish: (index, finish) => chunk({ index, delta: {}, logprobs: null, finish_reason: finish }),
    usage: (usage) => ({ ...chunk(), usage: usageJson(usage) }),
  };
}

function logprobsOf({ logprobs }: Delta) {
  return { content: [...logprobs], refusal: null };
}

function usageJson({ prompt, drawn }: Usage) {
  return { prompt_tokens: prompt, completion_tokens: drawn, total_tokens: prompt + drawn };
}
