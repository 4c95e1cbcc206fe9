import test from "ava";
import OpenAI from "openai";
import { score } from "../../../models/index.js";
import { babbler, hello, serve, until } from "./support.js";

test("an answer in one piece: text, why it ended, and tokens counted", async (t) => {
  const { client, engine } = await serve(t);
  const { choices, usage, ...rest } = await client.chat.completions.create(hello);
  const prompt = engine.prompt(hello.messages).length;
  t.like(rest, { object: "chat.completion", model: "babbler" });
  t.is(choices.length, 1);
  t.like(choices[0], { index: 0, finish_reason: "length", logprobs: null });
  t.is(choices[0].message.role, "assistant");
  t.deepEqual(usage, { prompt_tokens: prompt, completion_tokens: 24, total_tokens: prompt + 24 });
});

test("a stream brings the same text, whole characters only, then the reason and the usage", async (t) => {
  const { client } = await serve(t);
  const whole = await client.chat.completions.create(hello);
  const stream = await client.chat.completions.create({
    ...hello,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  t.deepEqual(chunks[0].choices[0].delta, { role: "assistant", content: "" });
  t.true(chunks.length > 5);
  const texts = chunks.map(({ choices }) => choices[0]?.delta.content ?? "");
  t.is(texts.join(""), whole.choices[0].message.content!);
  t.is(chunks.at(-2)!.choices[0].finish_reason, "length");
  t.deepEqual(chunks.at(-1)!.choices, []);
  t.deepEqual(chunks.at(-1)!.usage, whole.usage);
  t.true(chunks.slice(0, -1).every(({ usage }) => usage === null));
  t.is(new Set(chunks.map(({ id }) => id)).size, 1);
});

test("four answers differ from each other, whole and streamed alike", async (t) => {
  const { client } = await serve(t);
  const whole = await client.chat.completions.create({ ...hello, n: 4, temperature: 2 });
  const texts = whole.choices.map(({ message }) => message.content);
  t.is(new Set(texts).size, 4);
  t.is(whole.usage!.completion_tokens, 96);
  const streamed = ["", "", "", ""];
  const ends: (string | null)[] = [];
  for await (const { choices } of await client.chat.completions.create({
    ...hello,
    n: 4,
    temperature: 2,
    stream: true,
  })) {
    for (const { index, delta, finish_reason } of choices) {
      streamed[index] += delta.content ?? "";
      if (finish_reason) ends.push(finish_reason);
    }
  }
  t.deepEqual([streamed, ends], [texts, Array(4).fill("length")]);
});

test("the first of several answers is the answer alone", async (t) => {
  const { client } = await serve(t);
  const [one, four] = await Promise.all([1, 4].map((n) => client.chat.completions.create({ ...hello, n })));
  t.is(one.choices[0].message.content, four.choices[0].message.content);
});

test("log-probabilities are those of the tokens drawn, whole and streamed alike", async (t) => {
  const { client, engine } = await serve(t);
  const request = { ...hello, logprobs: true };
  const [{ message, logprobs }] = (await client.chat.completions.create(request)).choices;
  const entries = logprobs!.content!;
  t.is(entries.length, 24);
  t.true(entries.every(({ top_logprobs }) => top_logprobs.length === 0));
  t.is(Buffer.from(entries.flatMap(({ bytes }) => bytes ?? [])).toString(), message.content!);

  const ids: number[] = [];
  const sampled: number[] = [];
  const request2 = { tokens: engine.prompt(hello.messages), maxTokens: 24, sampling: { temperature: 1 } };
  const site = { step: 7, task: 0, sample: 0, turn: 0 };
  await engine.draw({ ...request2, site, onToken: (id, logprob) => [ids.push(id), sampled.push(logprob)] });
  t.deepEqual(
    entries.map(({ logprob }) => logprob),
    sampled,
  );
  const { model } = await babbler();
  const scored = (await score(model, [[...request2.tokens, ...ids]])).logprobs[0].slice(-24);
  t.true(scored.every((logprob, i) => Math.abs(logprob - sampled[i]) < 1e-4));

  const streamed = [];
  for await (const { choices } of await client.chat.completions.create({ ...request, stream: true })) {
    streamed.push(...(choices[0].logprobs?.content ?? []));
  }
  t.deepEqual(streamed, entries);
});

test("the most likely tokens beside each drawn one: their log-probabilities, whole and streamed alike", async (t) => {
  const { client } = await serve(t);
  const { model, tokenizer } = await babbler();
  for (const temperature of [1, 0.5, 0]) {
    const request = { ...hello, temperature, logprobs: true, top_logprobs: 20 };
    const entries = (await client.chat.completions.create(request)).choices[0].logprobs!.content!;
    for (const { token, logprob, bytes, top_logprobs: top } of entries) {
      t.is(top.length, 20);
      const values = top.map((each) => each.logprob);
      t.deepEqual(
        values,
        values.toSorted((a, b) => b - a),
      );
      t.true(values.reduce((sum, value) => sum + Math.exp(value), 0) < 1 + 1e-6);
      const same = top.find((each) => each.token === token);
      if (same) t.deepEqual(same, { token, logprob, bytes });
      else t.true(logprob <= values[19]);
      if (temperature === 0) t.is(top[0].token, token);
    }
    const few = (await client.chat.completions.create({ ...request, top_logprobs: 2 })).choices[0].logprobs!.content!;
    t.deepEqual(
      few.map(({ top_logprobs }) => top_logprobs),
      entries.map(({ top_logprobs }) => top_logprobs.slice(0, 2)),
    );
    const streamed = [];
    for await (const { choices } of await client.chat.completions.create({ ...request, stream: true })) {
      streamed.push(...(choices[0].logprobs?.content ?? []));
    }
    t.deepEqual(streamed, entries);
  }
  // Against the whole distribution: every token's log-probability after the prompt, one by one.
  const prompt = (await serve(t)).engine.prompt(hello.messages);
  const everyToken = Array.from({ length: tokenizer.vocabSize }, (_, id) => [...prompt, id]);
  const all = (await score(model, everyToken)).logprobs.map((row) => row.at(-1)!);
  const first = (await client.chat.completions.create({ ...hello, logprobs: true, top_logprobs: 5, max_tokens: 1 }))
    .choices[0].logprobs!.content![0].top_logprobs;
  t.deepEqual(
    first.map(({ logprob }) => logprob),
    all.toSorted((a, b) => b - a).slice(0, 5),
  );
});

test("an answer that takes too long is cut there, and is a shorter one", async (t) => {
  const { client, engine } = await serve(t, { maxSeconds: 1, engine: { maxPositions: 8192 } });
  const endless = { ...hello, max_tokens: 8000, temperature: 0, n: 2 };
  const { choices, usage } = await client.chat.completions.create(endless);
  t.deepEqual(
    choices.map(({ finish_reason }) => finish_reason),
    ["length", "length"],
  );
  t.true(usage!.completion_tokens < 16000, `${usage!.completion_tokens} tokens`);
  t.true(engine.idle);
});

test("a stop string ends the answer and is not in it; its tokens count as drawn", async (t) => {
  const { client } = await serve(t);
  const { choices } = await client.chat.completions.create(hello);
  const text = choices[0].message.content!;
  const stop = text.slice(6, 9);
  const cut = await client.chat.completions.create({ ...hello, stop: ["never in it", stop] });
  t.is(cut.choices[0].message.content, text.slice(0, text.indexOf(stop)));
  t.is(cut.choices[0].finish_reason, "stop");
  t.true(cut.usage!.completion_tokens < 24);
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...hello, stop, stream: true })) {
    streamed += chunk.choices[0].delta.content ?? "";
  }
  t.is(streamed, cut.choices[0].message.content!);
});

test("the model's own end of turn is a stop, and is no text", async (t) => {
  const { client } = await serve(t);
  const request = { ...hello, max_tokens: 200, temperature: 2, n: 16, logprobs: true };
  const { choices } = await client.chat.completions.create(request);
  const stopped = choices.filter(({ finish_reason }) => finish_reason === "stop");
  t.true(stopped.length > 0);
  for (const { message, logprobs } of stopped) {
    t.notRegex(message.content!, /<\|/);
    t.false(logprobs!.content!.some(({ token }) => token === "<|im_end|>"));
  }
});

test("the same seed gives the same text alone and among 32 others; another seed, or none, gives another", async (t) => {
  const { client } = await serve(t);
  const text = async (more: object) =>
    (await client.chat.completions.create({ ...hello, ...more })).choices[0].message.content;
  const alone = await text({});
  const others = Array.from({ length: 32 }, (_, i) => text({ seed: 100 + i, max_tokens: 10 + i }));
  const [among, other] = await Promise.all([text({}), text({ seed: 8 }), ...others]);
  t.is(among, alone);
  t.not(other, alone);
  t.not(await text({ seed: undefined }), await text({ seed: undefined }));
});

test("64 at once are all answered, each as it would be alone", async (t) => {
  const { client } = await serve(t, { engine: { maxBatch: 16 } });
  const ask = (seed: number) => client.chat.completions.create({ ...hello, seed, max_tokens: 12 });
  const together = await Promise.all(Array.from({ length: 64 }, (_, seed) => ask(seed)));
  for (const seed of [0, 31, 63]) t.deepEqual(together[seed].choices, (await ask(seed)).choices);
  t.is(new Set(together.map(({ id }) => id)).size, 64);
});

test("a client that leaves mid-stream ends its answer, and frees its place", async (t) => {
  const { client, engine } = await serve(t, { engine: { maxBatch: 1, maxPositions: 8192 } });
  const endless = { ...hello, max_tokens: 8000, temperature: 0, stream: true as const };
  const controller = new AbortController();
  const stream = await client.chat.completions.create(endless, { signal: controller.signal });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) controller.abort();
  await until(() => engine.idle, "the end of the answer");
  t.true(engine.drawn < 2000);
  t.is((await client.chat.completions.create(hello)).choices.length, 1);
});

test("the answer fills the context where nothing limits it, up to the server's own limit", async (t) => {
  const small = await serve(t, { engine: { maxPositions: 64 } });
  const { usage } = await small.client.chat.completions.create({ ...hello, max_tokens: undefined, temperature: 0 });
  t.true(usage!.total_tokens <= 64);
  const limited = await serve(t, { maxTokens: 5 });
  const answer = await limited.client.chat.completions.create({ ...hello, max_tokens: undefined });
  t.is(answer.usage!.completion_tokens, 5);
});

test("models are listed, and health needs no key", async (t) => {
  const { client, url } = await serve(t, { apiKey: "secret", model: "mine" });
  const models = await client.models.list();
  t.deepEqual(
    models.data.map(({ id, object }) => [id, object]),
    [["mine", "model"]],
  );
  const health = await fetch(`${url}/health`);
  const body = (await health.json()) as { status: string; event_loop_delay_ms: { p99: number; max: number } };
  t.deepEqual([health.status, body.status], [200, "ok"]);
  const { p99, max } = body.event_loop_delay_ms;
  t.true(p99 >= 0 && p99 <= max, `${p99} ms, ${max} ms`);
});

test("closing lets what is in flight finish, and takes no more", async (t) => {
  const { client, url, close } = await serve(t);
  const stream = await client.chat.completions.create({ ...hello, stream: true });
  const closed = close();
  let finish: string | null = null;
  for await (const { choices } of stream) finish = choices[0].finish_reason ?? finish;
  t.is(finish, "length");
  await closed;
  await t.throwsAsync(fetch(`${url}/health`));
});

test("closing at once cuts what is in flight, with an error that says why", async (t) => {
  const { client, close, engine } = await serve(t, { engine: { maxPositions: 8192 } });
  let drawing = 0;
  const draw = engine.draw.bind(engine);
  engine.draw = (request) => {
    drawing++;
    return draw(request);
  };
  const endless = { ...hello, max_tokens: 8000, temperature: 0 };
  const stream = await client.chat.completions.create({ ...endless, stream: true });
  const whole = client.chat.completions.create(endless);
  const read = (async () => {
    for await (const _ of stream);
  })();
  await until(() => drawing === 2, "two answers");
  const closed = close(0);
  await t.throwsAsync(read, { instanceOf: OpenAI.APIError, message: /shutting down/ });
  await t.throwsAsync(whole, { instanceOf: OpenAI.InternalServerError, message: /shutting down/ });
  await closed;
});
