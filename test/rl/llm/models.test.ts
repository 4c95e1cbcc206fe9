import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import test, { type ExecutionContext } from "ava";
import { CallError } from "../../../rl/llm/callError.js";
import { localModel } from "../../../rl/llm/localModel.js";
import { remoteModel } from "../../../rl/llm/remoteModel.js";
import { babblingEngine, serve } from "../serve/support.js";

const messages = [{ role: "user", content: "hello" }] as const;
const call = (seed: number, maxTokens = 12) => ({ messages, sampling: { temperature: 1, maxTokens, seed } });
const schema = { name: "any", schema: { type: "object" } };
const always = new AbortController().signal;

test("a model in this process and the same one behind the project's server give the same reply for the same seed", async (t) => {
  const served = await serve(t);
  const remote = remoteModel({ url: `${served.url}/v1`, model: "babbler" });
  const local = localModel(await babblingEngine(t), "babbler");
  for (const seed of [1, 2]) {
    const here = await local.complete(call(seed), always);
    t.deepEqual(
      await remote.complete({ ...call(seed), schema }, always),
      here,
      "the server refuses the schema and is asked without",
    );
    t.deepEqual([here.promptTokens > 0, here.completionTokens > 0], [true, true]);
  }
  t.notDeepEqual(await local.complete(call(1), always), await local.complete(call(2), always));
});

test("a reply that reaches its limit says so; the limit is lowered to what the model has room for", async (t) => {
  const engine = await babblingEngine(t, { maxPositions: 40 });
  const reply = await localModel(engine, "babbler").complete(call(3, 500), always);
  t.true(reply.promptTokens + reply.completionTokens <= 40);
  const replies = await Promise.all(
    [1, 2, 3, 4].map((seed) => localModel(engine, "babbler").complete(call(seed, 2), always)),
  );
  t.true(replies.every(({ finish, completionTokens }) => finish === "stop" || completionTokens === 2));
  t.true(replies.some(({ finish }) => finish === "length"));
});

test("a prompt that is too long, or a model that is not there, is refused for good", async (t) => {
  const engine = await babblingEngine(t, { maxPositions: 8 });
  const refused = (promise: Promise<unknown>, message: RegExp) =>
    t.throwsAsync(promise, { instanceOf: CallError, message }).then((error) => t.false(error.mayPass));
  await refused(localModel(engine, "babbler").complete(call(1), always), /exceed the model's context of 8/);
  const { url } = await serve(t);
  await refused(
    remoteModel({ url: `${url}/v1`, model: "other" }).complete(call(1), always),
    /HTTP 404 model 'other' does not exist/,
  );
});

test("nobody listens: a connection that may come back", async (t) => {
  const { url, close } = await serve(t);
  await close(0);
  const asked = remoteModel({ url: `${url}/v1`, model: "babbler" }).complete(call(1), always);
  const error = await t.throwsAsync(asked, {
    instanceOf: CallError,
    message: /no connection to http:\S+ \(ECONNREFUSED\)/,
  });
  t.true(error.mayPass);
});

test("an attempt ends with its signal", async (t) => {
  const engine = await babblingEngine(t, { maxPositions: 60_000 });
  const reason = new Error("enough");
  const controller = new AbortController();
  const drawing = localModel(engine, "babbler").complete(
    { messages, sampling: { temperature: 0, maxTokens: 50_000, seed: 1 } },
    controller.signal,
  );
  setTimeout(() => controller.abort(reason), 50);
  t.is(await t.throwsAsync(drawing), reason);
  t.true(engine.idle);
});

async function answering(t: ExecutionContext, answer: RequestListener): Promise<CallError> {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await new Promise((listens) => server.once("listening", listens));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const asked = remoteModel({ url: `http://127.0.0.1:${port}/v1`, model: "m" }).complete(call(1), always);
  return t.throwsAsync(asked, { instanceOf: CallError });
}

test("a page in place of an answer, or a missing key, says what to check", async (t) => {
  const page = await answering(t, (_, response) => void response.setHeader("content-type", "text/html").end("<html>"));
  t.regex(page.message, /is no chat completion; .*up to and with \/v1/);
  const refused = await answering(t, (_, response) => void response.writeHead(401).end("{}"));
  t.regex(refused.message, /^HTTP 401 .*; set the API key/);
});

test("Retry-After is heeded in seconds and as a date", async (t) => {
  const asked = (value: string) =>
    answering(t, (_, response) => void response.writeHead(429, { "retry-after": value }).end("{}"));
  t.is((await asked("7")).retryAfter, 7);
  const { retryAfter } = await asked(new Date(Date.now() + 60_000).toUTCString());
  t.true(retryAfter > 50 && retryAfter <= 60, `${retryAfter}`);
  for (const value of ["soon", "-1", new Date(0).toUTCString()]) t.is((await asked(value)).retryAfter, 0, value);
});
