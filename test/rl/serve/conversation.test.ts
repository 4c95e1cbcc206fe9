import test, { type ExecutionContext } from "ava";
import { Conversation } from "../../../rl/serve/conversation.js";
import { Engine } from "../../../rl/serve/engine.js";
import { noiseSite } from "../../../rl/serve/sampling.js";
import { babbler, until } from "./support.js";

const options = { sampling: { temperature: 1 }, maxTokens: 12, seed: 3 };

/** An engine that notes how many tokens each forward pass computes. */
async function counted(t: ExecutionContext, maxPositions?: number) {
  const { model, tokenizer } = await babbler({ maxPositions });
  const passes: number[] = [];
  const { forwardCached } = model;
  model.forwardCached = function (batch, step) {
    passes.push(batch.offsets.at(-1)!);
    return forwardCached.call(this, batch, step);
  };
  const engine = new Engine({ model, tokenizer });
  t.teardown(() => engine.dispose());
  return { engine, passes };
}

test("a second turn computes its own tokens only, and is what computing everything anew gives", async (t) => {
  const { engine, passes } = await counted(t);
  const conversation = new Conversation(engine, { ...options, system: "be brief" });
  const parts: string[] = [];
  const first = await conversation.say("hello", (text) => parts.push(text));
  t.is(parts.join(""), engine.chat.content(first.ids));
  const before = conversation.length;
  passes.length = 0;
  const second = await conversation.say("and then", () => {});
  const added = engine.chat.extend(first.ids, { role: "user", content: "and then" });
  t.is(passes[0], added.length + 1); // The last token drawn was not computed when the turn ended.
  t.true(passes.slice(1).every((tokens) => tokens === 1));
  t.is(conversation.length, before + added.length + second.ids.length);

  const opening = engine.prompt([
    { role: "system", content: "be brief" },
    { role: "user", content: "hello" },
  ]);
  const tokens = [...opening, ...first.ids, ...added];
  const anew = await engine.draw({ ...options, tokens, site: noiseSite(3, 0, 1) });
  t.deepEqual(anew.ids, second.ids);
});

test("an answer that is interrupted stays as far as it came, and the conversation goes on", async (t) => {
  const { engine } = await counted(t, 4096);
  const conversation = new Conversation(engine, { ...options, sampling: { temperature: 0 }, maxTokens: 2000 });
  const controller = new AbortController();
  let seen = "";
  const completion = await conversation.say(
    "hello",
    (text) => {
      seen += text;
      if (seen.length > 5) controller.abort();
    },
    controller.signal,
  );
  t.is(completion.stop, "cancelled");
  t.is(seen, engine.chat.content(completion.ids));
  t.true(completion.ids.length < 100);
  const next = new AbortController();
  const second = await conversation.say("go on", () => next.abort(), next.signal);
  t.true(second.ids.length >= 1);
  conversation.close();
  await until(() => engine.idle, "the end");
});

test("a message for which there is no room is refused, and a shorter one is not", async (t) => {
  const { engine } = await counted(t, 64);
  const conversation = new Conversation(engine, options);
  const long = "x".repeat(80);
  await t.throwsAsync(
    conversation.say(long, () => {}),
    { name: "InputError", message: /would have \d+ tokens, and there is room for 63/ },
  );
  t.is(conversation.length, 0);
  t.true((await conversation.say("hi", () => {})).ids.length > 0);
});
