import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { ExecutionContext } from "ava";

/** What may go wrong with an answer. */
export type Fault =
  | "rate_limit"
  | "refused"
  | "error"
  | "cut"
  | "no_json"
  | "wrong_form"
  | "empty"
  | "hang"
  | "hang_in_body"
  | "no_completion";

export interface ServerScript {
  /** The text of the reply to a prompt. */
  readonly reply: (prompt: string) => string;
  /** What goes wrong with request `number`, from 0. */
  readonly fault?: (number: number, body: ChatBody) => Fault | undefined;
  /** Milliseconds before an answer. */
  readonly latency?: (number: number) => number;
  /** Whether `response_format` is taken. Default no: it is refused with 400. */
  readonly takesSchema?: boolean;
}

export interface ChatBody {
  readonly model: string;
  readonly messages: readonly { readonly role: string; readonly content: string }[];
  readonly temperature: number;
  readonly max_tokens: number;
  readonly seed: number;
  readonly response_format?: { readonly type: string; readonly json_schema: { readonly schema: unknown } };
}

export interface FaultyServer {
  readonly url: string;
  /** Requests by what became of them. */
  readonly counts: Record<Fault | "good" | "schema_refused", number>;
  readonly bodies: ChatBody[];
}

/** An OpenAI-compatible server that misbehaves by script. */
export async function faultyServer(t: ExecutionContext, script: ServerScript): Promise<FaultyServer> {
  const counts: Record<string, number> = {};
  const bodies: ChatBody[] = [];
  const count = (name: string) => {
    counts[name] = (counts[name] ?? 0) + 1;
  };
  const server = createServer((request, response) => {
    response.on("error", () => {});
    void answer(request, response);
  });

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = JSON.parse(Buffer.concat(chunks).toString()) as ChatBody;
    if (body.response_format && !script.takesSchema) {
      count("schema_refused");
      send(response, 400, { error: { message: "response_format: not supported", param: "response_format" } });
      return;
    }
    const number = bodies.push(body) - 1;
    const latency = script.latency?.(number) ?? 0;
    if (latency > 0) await new Promise((resolve) => setTimeout(resolve, latency));
    const fault = script.fault?.(number, body);
    count(fault ?? "good");
    const text = script.reply(body.messages[0].content);
    faults[fault ?? "good"](response, text);
  }

  server.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    counts: counts as FaultyServer["counts"],
    bodies,
  };
}

function send(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
}

function completion(content: string) {
  const choices = [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }];
  return {
    object: "chat.completion",
    choices,
    usage: { prompt_tokens: 100, completion_tokens: 10, total_tokens: 110 },
  };
}

const faults: Record<Fault | "good", (response: ServerResponse, text: string) => void> = {
  good: (response, text) => send(response, 200, completion(text)),
  rate_limit: (response) => send(response, 429, { error: { message: "slow down" } }, { "retry-after": "0.02" }),
  refused: (response) => send(response, 401, { error: { message: "no such key" } }),
  error: (response) => send(response, 500, { error: { message: "out of luck" } }),
  cut(response, text) {
    const whole = JSON.stringify(completion(text));
    response.writeHead(200, { "content-type": "application/json", "content-length": String(whole.length) });
    response.write(whole.slice(0, whole.length / 2), () => response.destroy());
  },
  no_json: (response) => send(response, 200, completion("I would rather not answer in JSON.")),
  wrong_form: (response) => send(response, 200, completion('{"thought": "", "accuracy": "1", "response": 5}')),
  empty: (response) => send(response, 200, completion("")),
  hang() {},
  hang_in_body: (response) =>
    void response.writeHead(200, { "content-type": "application/json" }).write('{"choices": ['),
  no_completion: (response) => void response.writeHead(200, { "content-type": "text/html" }).end("<h1>hello</h1>"),
};
