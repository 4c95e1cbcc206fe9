import { once } from "node:events";
import { connect, type Socket } from "node:net";
import test, { type ExecutionContext } from "ava";
import OpenAI from "openai";
import type { ErrorBody } from "../../../rl/serve/errors.js";
import { limits } from "../../../rl/serve/limits.js";
import { startServer } from "../../../rl/serve/server.js";
import { babblingEngine, hello, post, type Served, serve, until } from "./support.js";

/** Whether a server still answers, and nothing that went before keeps a place or a sequence. */
async function isWell({ client, engine }: Served): Promise<boolean> {
  const { choices } = await client.chat.completions.create({ ...hello, max_tokens: 2 });
  await until(() => engine.idle, "the end of what went before");
  return choices.length === 1;
}

/** A connection on which a test writes what it likes. */
async function open(t: ExecutionContext, url: string): Promise<{ socket: Socket; received: () => string }> {
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  let text = "";
  socket.setEncoding("latin1").on("data", (data) => (text += data));
  socket.on("error", () => {});
  t.teardown(() => socket.destroy());
  await once(socket, "connect");
  return { socket, received: () => text };
}

/** Comes when a connection has ended, in whatever way. */
function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

const json = "content-type: application/json";
const head = `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n${json}\r\n`;

interface Mistake {
  readonly send: (url: string) => Promise<Response>;
  readonly status: number;
  readonly error: Partial<ErrorBody["error"]>;
}

const message = (length: number) => ({ role: "user", content: "x".repeat(length) });
const mistakes: Record<string, Mistake> = {
  "a body that is no JSON": {
    send: (url) => post(url, "{"),
    status: 400,
    error: { code: "invalid_json" },
  },
  "a body that is no UTF-8": {
    send: (url) => post(url, "", { body: Uint8Array.of(0x22, 0xff, 0x22) }),
    status: 400,
    error: { code: "invalid_json" },
  },
  "a body as deep as it is long": {
    send: (url) => post(url, "[".repeat(1e6)),
    status: 400,
    error: { code: "invalid_json" },
  },
  "no body": { send: (url) => post(url, ""), status: 400, error: { code: "invalid_json" } },
  "wrong types": {
    send: (url) => post(url, { ...hello, messages: "hello" }),
    status: 400,
    error: { param: "messages", type: "invalid_request_error" },
  },
  "keys that are properties of every object": {
    send: (url) => post(url, '{"__proto__": {"messages": []}, "constructor": 1}'),
    status: 400,
    error: { param: "model" },
  },
  "a body above the limit": {
    send: (url) => post(url, { ...hello, messages: [message(limits.bodyBytes)] }),
    status: 413,
    error: { code: "body_too_large" },
  },
  "too many messages": {
    send: (url) => post(url, { ...hello, messages: Array(limits.messages + 1).fill(message(1)) }),
    status: 400,
    error: { param: "messages" },
  },
  "more messages than the context holds": {
    send: (url) => post(url, { ...hello, messages: Array(limits.messages).fill(message(1)) }),
    status: 400,
    error: { param: "messages", code: "context_length_exceeded" },
  },
  "more tokens than there is room for": {
    send: (url) => post(url, { ...hello, max_tokens: 1000 }),
    status: 400,
    error: { code: "context_length_exceeded" },
  },
  "a model that is not there": {
    send: (url) => post(url, { ...hello, model: "gpt" }),
    status: 404,
    error: { param: "model", code: "model_not_found" },
  },
  "another type than JSON": {
    send: (url) => post(url, hello, { headers: { "content-type": "text/plain" } }),
    status: 415,
    error: { type: "invalid_request_error" },
  },
  "a compressed body": {
    send: (url) => post(url, hello, { headers: { "content-encoding": "gzip" } }),
    status: 415,
    error: { type: "invalid_request_error" },
  },
  "an unknown path": { send: (url) => fetch(`${url}/v1/embeddings`), status: 404, error: { code: "not_found" } },
  "the name of an inherited property as path": {
    send: (url) => fetch(`${url}/constructor`),
    status: 404,
    error: { code: "not_found" },
  },
  "a wrong method": {
    send: (url) => fetch(`${url}/v1/chat/completions`),
    status: 405,
    error: { code: "method_not_allowed" },
  },
};

for (const [what, { send, status, error }] of Object.entries(mistakes)) {
  test(`${what}: refused in OpenAI's form, and the server is well`, async (t) => {
    const served = await serve(t);
    const response = await send(served.url);
    t.is(response.status, status);
    const body = (await response.json()) as ErrorBody;
    t.deepEqual(Object.keys(body.error).sort(), ["code", "message", "param", "type"]);
    t.like(body.error, error);
    t.true(await isWell(served));
  });
}

test("a wrong key or none is refused before anything else; the right one is not", async (t) => {
  const served = await serve(t, { apiKey: "secret" });
  for (const authorization of [undefined, "Bearer wrong", "Bearer secret2", "Basic secret", "Bearer "]) {
    const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
    for (const path of ["/v1/models", "/nowhere"]) {
      const response = await fetch(served.url + path, { headers });
      t.is(response.status, 401);
      t.is(((await response.json()) as ErrorBody).error.code, "invalid_api_key");
    }
  }
  const wrong = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: "wrong", maxRetries: 0 });
  await t.throwsAsync(wrong.models.list(), { instanceOf: OpenAI.AuthenticationError });
  t.true(await isWell(served));
});

test("without a key the server listens on this machine only, and answers to its own name only", async (t) => {
  const engine = await babblingEngine(t);
  for (const host of ["0.0.0.0", "::", "", "192.0.2.1", "example.org"]) {
    await t.throwsAsync(startServer({ engine, model: "m", host, port: 0 }), { message: /set an API key/ });
  }
  await t.throwsAsync(startServer({ engine, model: "m", port: 0, apiKey: "" }), { message: /API key is empty/ });
  const served = await serve(t);
  const { socket, received } = await open(t, served.url);
  socket.write("GET /v1/models HTTP/1.1\r\nhost: evil.example:8000\r\n\r\n");
  await once(socket, "close");
  t.regex(received(), /^HTTP\/1\.1 403 /);
  t.true(await isWell(served));
});

test("a port that is taken is a mistake in what was given", async (t) => {
  const { url, engine } = await serve(t);
  const port = Number(new URL(url).port);
  await t.throwsAsync(startServer({ engine, model: "m", port }), { name: "InputError", message: /in use; .*--port/ });
});

test.serial("a client that sends half a body is told so and cut off, while others are answered", async (t) => {
  const served = await serve(t, { patience: { request: 1000, headers: 1000 } });
  const { socket, received } = await open(t, served.url);
  socket.write(`${head}content-length: 1000\r\n\r\n{"model":`);
  t.true(await isWell(served));
  await once(socket, "close");
  t.regex(received(), /^HTTP\/1\.1 408 .*"the request did not come in time"/s);
  t.true(await isWell(served));
});

test.serial("a client that sends half its headers is told so and cut off", async (t) => {
  const served = await serve(t, { patience: { request: 1000, headers: 1000 } });
  const { socket, received } = await open(t, served.url);
  socket.write("GET /v1/mod");
  await once(socket, "close");
  t.regex(received(), /^HTTP\/1\.1 408 /);
  t.true(await isWell(served));
});

for (const [what, beginning] of Object.entries({
  headers: "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: ",
  "a body": `${head}content-length: 100000\r\n\r\n{"model": "`,
})) {
  test.serial(`a client that sends ${what} a byte at a time is cut off all the same`, async (t) => {
    const served = await serve(t, { patience: { request: 1000, headers: 1000 } });
    const { socket, received } = await open(t, served.url);
    socket.write(beginning);
    const drip = setInterval(() => socket.write("x"), 50);
    t.teardown(() => clearInterval(drip));
    socket.once("data", () => clearInterval(drip));
    t.true(await isWell(served));
    await closed(socket);
    t.regex(received(), /^HTTP\/1\.1 408 /);
    t.true(await isWell(served));
  });
}

test.serial("a client that reads nothing of its stream is cut off, while others are answered", async (t) => {
  const served = await serve(t, { patience: { stall: 500 }, engine: { maxPositions: 2048 } });
  const { socket, received } = await open(t, served.url);
  // More than the system's buffers hold: each token comes with twenty others.
  const heavy = { ...hello, stream: true, n: 16, max_tokens: 1000, logprobs: true, top_logprobs: 20, temperature: 2 };
  const body = JSON.stringify(heavy);
  socket.pause().write(`${head}content-length: ${body.length}\r\n\r\n${body}`);
  await until(() => !served.engine.idle, "the answers");
  const { choices } = await served.client.chat.completions.create({ ...hello, max_tokens: 2 });
  t.is(choices.length, 1);
  await until(() => served.engine.idle, "the end of the answers", 60_000);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  socket.resume();
  await closed(socket);
  t.true(received().includes("data: "));
  t.false(received().includes("[DONE]"));
  t.true(await isWell(served));
});

test("a client that keeps its connection and sends nothing more is cut off", async (t) => {
  const served = await serve(t, { patience: { idle: 100 } });
  const { socket, received } = await open(t, served.url);
  socket.write("GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
  await once(socket, "close");
  t.regex(received(), /^HTTP\/1\.1 200 /);
});

test("what is no HTTP is refused, also behind a stream that is under way", async (t) => {
  const served = await serve(t, { engine: { maxPositions: 8192 } });
  const plain = await open(t, served.url);
  plain.socket.write("hello\r\n\r\n");
  await once(plain.socket, "close");
  t.regex(plain.received(), /^HTTP\/1\.1 400 .*"this is not an HTTP request"/s);

  const body = JSON.stringify({ ...hello, stream: true, max_tokens: 8000, temperature: 0 });
  const busy = await open(t, served.url);
  busy.socket.write(`${head}content-length: ${body.length}\r\n\r\n${body}`);
  await until(() => busy.received().includes("data: "), "the stream");
  busy.socket.write("hello\r\n\r\n");
  await once(busy.socket, "close");
  t.notRegex(busy.received(), /HTTP\/1\.1 400/);
  t.true(await isWell(served));
});

test("headers that are too large are refused", async (t) => {
  const served = await serve(t);
  const { socket, received } = await open(t, served.url);
  socket.write(`GET /health HTTP/1.1\r\nhost: localhost\r\nx: ${"x".repeat(1e5)}\r\n\r\n`);
  await once(socket, "close");
  t.regex(received(), /^HTTP\/1\.1 431 /);
  t.true(await isWell(served));
});

test("clients that leave in the midst of body, wait, answer or stream leave nothing behind", async (t) => {
  const served = await serve(t, { engine: { maxBatch: 1, maxPositions: 8192 } });
  for (const stream of [true, false]) {
    const body = JSON.stringify({ ...hello, stream, max_tokens: 8000, temperature: 0 });
    const sockets = await Promise.all(
      [
        `${head}content-length: 1000\r\n\r\n{`,
        ...Array(3).fill(`${head}content-length: ${body.length}\r\n\r\n${body}`),
      ].map(async (text) => {
        const { socket } = await open(t, served.url);
        socket.write(text);
        return socket;
      }),
    );
    await until(() => !served.engine.idle, "an answer");
    for (const socket of sockets) socket.resetAndDestroy();
    t.true(await isWell(served));
  }
});

test("a full queue is 429 with the time to come again, and empties", async (t) => {
  const served = await serve(t, { maxQueue: 1, engine: { maxBatch: 1, maxPositions: 8192 } });
  const controller = new AbortController();
  const { signal } = controller;
  const running = post(served.url, { ...hello, stream: true, max_tokens: 8000, temperature: 0 }, { signal });
  await until(() => !served.engine.idle, "an answer");
  const waiting = post(served.url, { ...hello, max_tokens: 2 });
  await new Promise((resolve) => setTimeout(resolve, 50));
  const refused = await post(served.url, hello);
  t.deepEqual([refused.status, refused.headers.get("retry-after")], [429, "1"]);
  t.like(((await refused.json()) as ErrorBody).error, { type: "rate_limit_error", code: "queue_full" });
  await running;
  controller.abort();
  t.is((await waiting).status, 200);
  t.true(await isWell(served));
});

test("a failure of the model itself is 500 without details, and the next request is answered", async (t) => {
  const served = await serve(t);
  const { draw } = served.engine;
  served.engine.draw = () => Promise.reject(new Error("out of memory at 0x1234"));
  const { write } = process.stderr;
  let log = "";
  process.stderr.write = (text: unknown) => Boolean((log += text));
  const [whole, stream] = await Promise.all(
    [false, true].map((stream) => post(served.url, { ...hello, n: 2, stream })),
  );
  const texts = await Promise.all([whole.text(), stream.text()]);
  process.stderr.write = write;
  t.deepEqual([whole.status, stream.status], [500, 200]);
  for (const text of texts) {
    t.regex(text, /"type":"server_error"/);
    t.notRegex(text, /0x1234/);
  }
  t.regex(log, /out of memory at 0x1234/);
  served.engine.draw = draw;
  t.true(await isWell(served));
});
