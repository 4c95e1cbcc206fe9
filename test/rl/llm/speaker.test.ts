import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { z } from "zod";
import { CallError } from "../../../rl/llm/callError.js";
import { jsonReply, type Question } from "../../../rl/llm/question.js";
import { remoteModel } from "../../../rl/llm/remoteModel.js";
import { openReplies } from "../../../rl/llm/replies.js";
import { createSpeaker, type Speaker, type SpeakerOptions } from "../../../rl/llm/speaker.js";
import { readJsonLines } from "../../../rl/report/jsonLines.js";
import { temporaryFolder } from "../../temporary.js";
import { type Fault, type FaultyServer, faultyServer, type ServerScript } from "./faultyServer.js";

const form = jsonReply("accuracy", z.object({ accuracy: z.number() }));
const question = (prompt = "how good?", seed = 7): Question<{ accuracy: number }> => ({
  prompt,
  about: "test",
  seed,
  ...form,
});
const right = '{"accuracy": 1}';

interface Asked {
  readonly server: FaultyServer;
  readonly speaker: Speaker;
}

async function ask(
  t: ExecutionContext,
  script: Partial<ServerScript>,
  options: Partial<SpeakerOptions> = {},
): Promise<Asked> {
  const server = await faultyServer(t, { reply: () => right, ...script });
  const speaker = createSpeaker({
    role: "judge",
    model: remoteModel({ url: server.url, model: "m" }),
    sampling: { temperature: 0, maxTokens: 32 },
    ...{ concurrency: 8, timeout: 30, deadline: 60, retries: 2, backoff: 0.01 },
    ...options,
  });
  return { server, speaker };
}

/** The fault happens to the first `times` requests. */
const first =
  (fault: Fault, times = 1) =>
  (number: number) =>
    number < times ? fault : undefined;

/** Long enough for an answer on a busy machine, short enough to wait for. */
const brief = { timeout: 1.5 };
const passing: readonly [Fault, string][] = [
  ["rate_limit", "faults_rate_limit"],
  ["error", "faults_server"],
  ["no_completion", "faults_server"],
  ["cut", "faults_connection"],
  ["hang", "faults_timeout"],
  ["hang_in_body", "faults_timeout"],
  ["empty", "faults_empty"],
  ["no_json", "faults_unusable"],
  ["wrong_form", "faults_unusable"],
];
for (const [fault, metric] of passing) {
  test.serial(`${fault}: the call is made again, and counted under its fault`, async (t) => {
    const { server, speaker } = await ask(t, { fault: first(fault) }, fault.startsWith("hang") ? brief : {});
    t.deepEqual(await speaker.ask(question()), { accuracy: 1 });
    t.is(server.bodies.length, 2);
    t.like(speaker.takeMetrics(), { calls: 1, attempts: 2, [metric]: 1, failures: undefined });
  });

  test.serial(`${fault} every time: the call fails after its attempts, and is no 0`, async (t) => {
    const { server, speaker } = await ask(t, { fault: () => fault }, fault.startsWith("hang") ? brief : {});
    const error = await t.throwsAsync(speaker.ask(question()), {
      instanceOf: CallError,
      message: /^judge: .*after 3 attempts$/,
    });
    t.is(`faults_${(error as CallError).fault}`, metric);
    t.is(server.bodies.length, 3);
    t.like(speaker.takeMetrics(), { calls: 1, attempts: 3, failures: 1, [metric]: 3 });
  });
}

test("a call that the server refuses is not made again", async (t) => {
  const { server, speaker } = await ask(t, { fault: () => "refused" });
  await t.throwsAsync(speaker.ask(question()), {
    message: "judge: HTTP 401 no such key; set the API key (apiKeyEnv names its variable)",
  });
  t.is(server.bodies.length, 1);
  t.like(speaker.takeMetrics(), { calls: 1, attempts: 1, faults_refused: 1, failures_refused: 1 });
});

test("an unusable reply is shown to the model, with what is wrong and another seed; a failed connection changes nothing", async (t) => {
  const { server, speaker } = await ask(t, { fault: (number) => (["error", "wrong_form"] as const)[number] });
  await speaker.ask(question());
  const [one, two, three] = server.bodies;
  t.deepEqual([one.messages, one.seed], [two.messages, two.seed]);
  t.is(three.messages.length, 3);
  t.regex(three.messages[2].content, /the reply cannot be used: accuracy: .*expected number/);
  t.not(three.seed, one.seed);
});

test("a string is no number, and a number out of place is not taken", async (t) => {
  const { speaker } = await ask(t, { reply: () => '{"accuracy": "1"}' }, { retries: 0 });
  await t.throwsAsync(speaker.ask(question()), { message: /accuracy: .*expected number, received string/ });
});

test("the server is asked for a schema until it refuses", async (t) => {
  const refusing = await ask(t, {});
  await refusing.speaker.ask(question("a"));
  await refusing.speaker.ask(question("b"));
  t.is(refusing.server.counts.schema_refused, 1);
  t.true(refusing.server.bodies.every(({ response_format }) => response_format === undefined));
  const taking = await ask(t, { takesSchema: true });
  await taking.speaker.ask(question());
  t.like(taking.server.bodies[0].response_format, {
    type: "json_schema",
    json_schema: { schema: { required: ["accuracy"] } },
  });
});

test.serial(
  "nothing outlasts its deadline: not a server that hangs, a model that ignores its signal, or a full queue",
  async (t) => {
    const limits = { deadline: 0.5, timeout: 10, retries: 9 };
    const hanging = await ask(t, { fault: () => "hang" }, limits);
    const deaf = await ask(t, {}, { ...limits, model: { name: "deaf", complete: () => new Promise(() => {}) } });
    const busy = await ask(t, { latency: () => 300 }, { ...limits, concurrency: 1 });
    for (const [{ speaker }, failures] of [
      [hanging, 8],
      [deaf, 8],
      [busy, 7],
    ] as const) {
      const started = performance.now();
      const asked = Array.from({ length: 8 }, (_, i) => speaker.ask(question(`${i}`)));
      const ends = await Promise.allSettled(asked);
      t.true(performance.now() - started < 1500);
      const late = ends.filter((end) => end.status === "rejected" && end.reason.fault === "deadline");
      t.true(late.length >= failures - 1, `${late.length}`);
      const metrics = speaker.takeMetrics();
      t.is(metrics.calls, 8);
      t.is(metrics.failures_deadline, late.length);
      t.true(metrics.call_seconds_max < 1);
    }
  },
);

test("a reply is kept as it came and not asked for again; another seed, prompt or sampling is another call", async (t) => {
  const path = join(temporaryFolder(t), "replies.jsonl");
  const { server, speaker } = await ask(t, { fault: first("no_json") });
  let replies = openReplies(path);
  speaker.remember(replies);
  t.deepEqual(await speaker.ask(question()), { accuracy: 1 });
  t.deepEqual(await speaker.ask(question()), { accuracy: 1 });
  t.is(server.bodies.length, 2);
  await speaker.ask(question("how good?", 8));
  await speaker.ask(question("how bad?"));
  t.is(server.bodies.length, 4);
  t.like(speaker.takeMetrics(), { calls: 4, cache_hits: 1, attempts: 4 });
  replies.close();

  const records = readJsonLines<Record<string, unknown>>(path);
  t.deepEqual(
    records.map(({ text, fault }) => [text, fault]),
    [
      ["I would rather not answer in JSON.", "unusable"],
      [right, undefined],
      [right, undefined],
      [right, undefined],
    ],
  );
  const again = await ask(t, {}, { model: remoteModel({ url: server.url, model: "m" }) });
  replies = openReplies(path);
  t.teardown(() => replies.close());
  again.speaker.remember(replies);
  await again.speaker.ask(question());
  t.is(server.bodies.length, 4, "the file of an earlier run answers");
});

test("the same call twice at once is made once", async (t) => {
  const { server, speaker } = await ask(t, { latency: () => 50 });
  await Promise.all([speaker.ask(question()), speaker.ask(question())]);
  t.is(server.bodies.length, 1);
});

test("tokens cost what the price says, those of unusable replies too", async (t) => {
  const { speaker } = await ask(t, { fault: first("no_json") }, { price: { prompt: 3, completion: 50 } });
  await speaker.ask(question());
  const { cost, prompt_tokens, completion_tokens } = speaker.takeMetrics();
  t.deepEqual([prompt_tokens, completion_tokens], [200, 20]);
  t.true(Math.abs(cost - (2 * (100 * 3 + 10 * 50)) / 1e6) < 1e-12);
  t.deepEqual(speaker.takeMetrics(), {}, "taken once");
});

test("no more calls are under way than allowed", async (t) => {
  let [now, most] = [0, 0];
  const model = {
    name: "counting",
    async complete() {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setTimeout(resolve, 10));
      now--;
      return { text: right, finish: "stop" as const, promptTokens: 1, completionTokens: 1 };
    },
  };
  const { speaker } = await ask(t, {}, { model, concurrency: 3 });
  await Promise.all(Array.from({ length: 12 }, (_, i) => speaker.ask(question(`${i}`))));
  t.is(most, 3);
});
