import test from "ava";
import OpenAI from "openai";
import { serveCommand } from "../../../rl/cli/serve.js";
import { temporaryFolder } from "../../temporary.js";
import { saveBabbler, until } from "../serve/support.js";
import { start } from "./support.js";

const serve = ["serve", "--model", "model", "--device", "cpu", "--port", "0"];

test("it says where it listens, answers the official client, and ends when asked to, after what is in flight", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(`${folder}/model`);
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const running = start(t, folder, [...serve, "--name", "mine"], { ITPO_API_KEY: "secret" });
    await until(() => running.stdout().endsWith("\n"), "the address");
    const [, baseURL] = /^mine on cpu at (http:\/\/127\.0\.0\.1:\d+\/v1); Ctrl-C ends it\n$/.exec(running.stdout())!;
    const client = new OpenAI({ baseURL, apiKey: "secret", maxRetries: 0 });
    const answer = await client.chat.completions.create({
      model: "mine",
      messages: [{ role: "user", content: "hello" }],
      max_tokens: 4,
    });
    t.is(answer.choices.length, 1);
    await t.throwsAsync(new OpenAI({ baseURL, apiKey: "no", maxRetries: 0 }).models.list(), { message: /^401 / });
    const long = await client.chat.completions.create({
      ...{ model: "mine", messages: [{ role: "user", content: "hello" }], max_tokens: 150, temperature: 0 },
      stream: true,
    });
    running.child.kill(signal);
    let finish: string | null = null;
    for await (const { choices } of long) finish = choices[0].finish_reason ?? finish;
    t.truthy(finish);
    t.is((await running.ended).code, 0);
  }
});

test("a second request to end cuts what is in flight", async (t) => {
  const folder = temporaryFolder(t);
  await saveBabbler(`${folder}/model`, { maxPositions: 60000 });
  const running = start(t, folder, serve);
  await until(() => running.stdout().endsWith("\n"), "the address");
  const [, baseURL] = /at (\S+);/.exec(running.stdout())!;
  const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const stream = await client.chat.completions.create({
    ...{ model: "model", messages: [{ role: "user", content: "hello" }], max_tokens: 50000, temperature: 0 },
    stream: true,
  });
  const read = (async () => {
    for await (const _ of stream);
  })();
  running.child.kill("SIGINT");
  await until(() => running.stderr().includes("once more to cut"), "word of the first request");
  running.child.kill("SIGINT");
  await t.throwsAsync(read);
  t.is((await running.ended).code, 0);
});

const given = {
  ...{ model: "nowhere", device: "cpu", dtype: "f32", host: "127.0.0.1", port: "0" },
  ...{ maxBatch: "4", maxQueue: "4", maxTokens: "8", cache: "1" },
};
const mistakes: Record<
  string,
  readonly [options: Partial<typeof given> & { apiKey?: string; maxSeconds?: string }, message: RegExp]
> = {
  "an empty key": [{ apiKey: "" }, /the API key is empty/],
  "a port that is none": [{ port: "70000" }, /--port is '70000'; give a whole number from 0 to 65535/],
  "no batch": [{ maxBatch: "0" }, /--max-batch is '0'/],
  "a cache of less than nothing": [{ cache: "-1" }, /--cache is '-1'; give a number of at least 0/],
  "no time for an answer": [{ maxSeconds: "0" }, /--max-seconds is '0'; give a number of at least 0\.001/],
  "a folder that is not there": [{}, /nowhere: no such folder/],
};
for (const [what, [options, message]] of Object.entries(mistakes)) {
  test(`${what}: a mistake in what was given`, async (t) => {
    await t.throwsAsync(serveCommand({ ...given, ...options }), { name: "InputError", message });
  });
}
