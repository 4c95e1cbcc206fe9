import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { Writable } from "node:stream";
import test, { type ExecutionContext } from "ava";
import { chatCompletions } from "../../../rl/serve/completions.js";
import { openEventStream } from "../../../rl/serve/eventStream.js";
import { defaultPatience } from "../../../rl/serve/limits.js";
import { Places } from "../../../rl/serve/places.js";
import { babblingEngine, hello, until } from "./support.js";

/** The response to a client that has asked and reads nothing yet, and that client's connection. */
async function unread(t: ExecutionContext) {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1").pause();
  t.teardown(() => [socket.destroy(), server.closeAllConnections(), server.close()]);
  socket.on("error", () => {});
  socket.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
  const [, response] = (await once(server, "request")) as [unknown, ServerResponse];
  return { response, socket };
}

const large = { text: "x".repeat(1 << 16) };

test("a client that takes nothing is cut off", async (t) => {
  const { response } = await unread(t);
  const events = openEventStream(response, { stall: 100, onDrain: () => {} });
  for (let i = 0; i < 1000 && !events.congested; i++) events.send(large);
  for (let i = 0; i < 200; i++) events.send(large); // More than the system's own buffers hold.
  await once(response, "close");
  t.false(response.writableFinished);
  t.notThrows(() => {
    events.send(large);
    events.end();
  });
});

test("a client that reads after a while gets everything, and the end mark", async (t) => {
  const { response, socket } = await unread(t);
  let drained = false;
  const events = openEventStream(response, { stall: 5000, onDrain: () => (drained = true) });
  for (let i = 0; i < 50; i++) events.send(large);
  t.true(events.congested);
  events.send({ last: true });
  let text = "";
  socket
    .setEncoding("utf8")
    .on("data", (data) => (text += data))
    .resume();
  await until(() => drained, "room for more");
  t.false(events.congested);
  events.end();
  await until(() => text.includes("data: [DONE]\n\n"), "the end");
  t.regex(text, /data: \{"last":true\}\n\n/);
});

test("for a client that reads slowly chunks grow, not their number", async (t) => {
  const engine = await babblingEngine(t);
  const taken: string[] = [];
  let take: (() => void) | undefined;
  const slow = new Writable({
    highWaterMark: 1,
    write(chunk, _, done) {
      taken.push(String(chunk));
      take = done;
    },
  });
  const response = Object.assign(slow, { writeHead() {}, socket: null }) as unknown as ServerResponse;
  const service = { engine, places: new Places(8, { maxWaiting: 0 }), model: "babbler", maxTokens: 8 };
  const call = { response, signal: new AbortController().signal, patience: defaultPatience };
  const done = chatCompletions(service, { ...hello, stream: true }, call);
  await until(() => engine.drawn === hello.max_tokens && engine.idle, "the end of the answer");
  t.is(taken.length, 1);
  while (!slow.writableFinished) {
    take!();
    await new Promise(setImmediate);
  }
  await done;
  const chunks = taken.map((text) => text.slice("data: ".length).trim());
  t.is(chunks.pop(), "[DONE]");
  const choices = chunks.map((text) => JSON.parse(text).choices[0]);
  t.is(choices.length, 3);
  t.is(choices[0].delta.role, "assistant");
  t.true(choices[1].delta.content.length > 10);
  t.is(choices[2].finish_reason, "length");
});
