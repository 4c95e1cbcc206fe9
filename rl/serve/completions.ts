import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { type AnswerSink, drawAnswers, type Service } from "./answers.js";
import { asApiError } from "./errors.js";
import { type EventStream, openEventStream } from "./eventStream.js";
import type { Patience } from "./limits.js";
import { sendJson } from "./reply.js";
import { chunkMaker, completion, responseHead } from "./responses.js";
import { type ChatRequest, parseChatRequest } from "./schema.js";
import type { TokenLogprob } from "./tokenLogprob.js";

/** One request on its way: where its response goes, and what ends it early. */
export interface Call {
  readonly response: ServerResponse;
  readonly signal: AbortSignal;
  readonly patience: Patience;
}

/** POST /v1/chat/completions. @throws ApiError where nothing was sent yet. */
export async function chatCompletions(service: Service, body: unknown, call: Call): Promise<void> {
  const request = parseChatRequest(body);
  await (request.stream ? stream : whole)(service, request, call);
}

/** What is known and not sent of one choice. */
interface Part {
  content: string;
  readonly logprobs: TokenLogprob[];
  finish?: "stop" | "length";
}

const emptyPart = (): Part => ({ content: "", logprobs: [] });

async function whole(service: Service, request: ChatRequest, { response, signal, patience }: Call): Promise<void> {
  const parts = Array.from({ length: request.choices }, emptyPart);
  const sink = collecting((choice) => parts[choice]);
  const usage = await drawAnswers(service, request, sink, signal);
  const choices = parts.map(({ finish = "stop", ...delta }) => ({ ...delta, finish }));
  const head = responseHead(service.model);
  sendJson(response, 200, completion(head, choices, usage, request.logprobs), patience);
}

async function stream(service: Service, request: ChatRequest, { response, signal, patience }: Call): Promise<void> {
  const chunks = chunkMaker(responseHead(service.model), request);
  /** Where a client reads slowly its chunks grow, not their number. */
  const unsent = new Map<number, Part>();
  const partOf = (choice: number) => unsent.get(choice) ?? unsent.set(choice, emptyPart()).get(choice)!;
  const idle = new EventTarget();
  let events: EventStream | undefined;

  function flush(): void {
    for (const [choice, part] of unsent) {
      if (!events || events.congested) return;
      if (part.content !== "" || part.logprobs.length > 0) events.send(chunks.content(choice, part));
      if (part.finish) events.send(chunks.finish(choice, part.finish));
      unsent.delete(choice);
    }
    idle.dispatchEvent(new Event("idle"));
  }

  const begin = () => {
    events = openEventStream(response, { stall: patience.stall, onDrain: flush });
    for (let choice = 0; choice < request.choices; choice++) events.send(chunks.role(choice));
  };
  try {
    const usage = await drawAnswers(service, request, { ...collecting(partOf, flush), begin }, signal);
    if (unsent.size > 0) await once(idle, "idle", { signal });
    if (request.includeUsage) events!.send(chunks.usage(usage));
  } catch (error) {
    if (!events) throw error;
    events.send(asApiError(signal.aborted ? signal.reason : error).body);
  }
  events!.end();
}

/** A sink that joins what comes, choice by choice. */
function collecting(partOf: (choice: number) => Part, onChange = () => {}): AnswerSink {
  return {
    begin() {},
    delta(choice, { content, logprobs }) {
      const part = partOf(choice);
      part.content += content;
      part.logprobs.push(...logprobs);
      onChange();
    },
    finish(choice, finish) {
      partOf(choice).finish = finish;
      onChange();
    },
  };
}
