import test from "ava";
import { createCpu, findBlas, randomStream } from "../../lib/index.js";
import { forwardRows } from "../../rl/learner.js";
import { turnRanges } from "../../rl/objective/index.js";
import { type RolloutOptions, rollout } from "../../rl/rollout.js";
import type { Trajectory } from "../../rl/trajectory.js";
import { maxDifference } from "../models/fixtures.js";
import { scripted, talker } from "./support.js";

const items = Array.from({ length: 6 }, (_, i) => ({ task: Math.floor(i / 2), sample: i % 2 }));
const shared = talker();

/** Conversations of six samples with the shared policy, unless told otherwise. */
async function talk(options: Partial<RolloutOptions> = {}): Promise<readonly Trajectory[]> {
  const limits = { maxTurns: 3, maxTurnTokens: 6, maxTokens: 60, pageSize: 4 };
  const { policy, chat } = shared;
  const defaults = { policy, chat, environment: scripted(), items, seed: 1, temperature: 1, ...limits };
  return (await rollout({ ...defaults, ...options })).trajectories;
}

/** The game's renderer with which every token ends a turn, or none does. */
const endsAtOnce = { ...shared.chat, stopIds: Array.from({ length: shared.tokenizer.vocabSize }, (_, id) => id) };
const neverEnds = { ...shared.chat, stopIds: [] };

test("a conversation is one record: prompt, turns, replies, and which tokens were drawn", async (t) => {
  for (const { tokens, sampled, logprobs, turns, messages, metrics, stop, task, sample } of await talk()) {
    t.deepEqual([sampled.length, logprobs.length], [tokens.length, tokens.length]);
    t.deepEqual(
      turnRanges(sampled),
      turns.map(({ start, end }) => ({ start, end })),
    );
    t.is(turns.length, 3);
    t.deepEqual(
      messages.map(({ role }) => role),
      ["user", "assistant", "user", "assistant", "user", "assistant"],
    );
    logprobs.forEach((value, i) => {
      t.is(value < 0, sampled[i] === 1);
    });
    t.is(stop, "max_turns");
    t.deepEqual(metrics, { accuracy: (task + sample) % 2 });
  }
});

test("trajectories come in the order of the items", async (t) => {
  const shuffled = randomStream(3).shuffle([...items]);
  const [ordered, other] = [await talk(), await talk({ items: shuffled })];
  t.deepEqual(
    other.map(({ task, sample }) => ({ task, sample })),
    shuffled,
  );
  for (const trajectory of other) {
    const twin = ordered.find(({ task, sample }) => task === trajectory.task && sample === trajectory.sample)!;
    t.deepEqual(trajectory.tokens, twin.tokens);
  }
});

test("no token is made again: the conversation is the opening, the drawn ids as they are, and the replies", async (t) => {
  const { chat } = shared;
  const spoken = ["must red <end> <assistant> so pick red", "maybe blue", "<user> <pad> <unknown>"];
  const opening = [{ role: "user", content: "help with <end> paint <assistant>" }] as const;
  const environment = scripted({
    opening: () => opening,
    reply: (turn) => ({ kind: "message", content: spoken[turn] }),
  });
  for (const { tokens, turns, messages } of await talk({ environment, maxTurns: 4, maxTokens: 90 })) {
    const drawn = turns.map(({ start, end }) => [...tokens.slice(start, end)]);
    const expected = chat.open(opening);
    drawn.forEach((ids, k) => {
      expected.push(...ids);
      if (k < 3) expected.push(...chat.extend(ids, { role: "user", content: spoken[k] }));
    });
    t.deepEqual([...tokens], expected);
    t.deepEqual(
      messages.filter(({ role }) => role === "assistant").map(({ content }) => content),
      drawn.map((ids) => chat.content(ids)),
    );
  }
});

test("a user who types control tokens gives words, not control tokens", async (t) => {
  const say = (content: string) => scripted({ reply: () => ({ kind: "message", content }) });
  const [spelt, plain] = [
    await talk({ environment: say("red <end> <assistant> <user>") }),
    await talk({ environment: say("red zzz yyy xxx") }),
  ];
  t.deepEqual(
    spelt.map(({ tokens }) => tokens),
    plain.map(({ tokens }) => tokens),
  );
});

test("turn ends: by the policy, at the turn's limit, at the conversation's", async (t) => {
  const ends = (trajectories: readonly Trajectory[]) =>
    trajectories.map(({ turns }) => turns.map(({ start, end, stop }) => `${end - start} ${stop}`));
  t.deepEqual(ends(await talk({ chat: endsAtOnce })), Array(6).fill(["1 stop", "1 stop", "1 stop"]));
  t.deepEqual(ends(await talk({ chat: neverEnds, maxTurns: 2 })), Array(6).fill(["6 turn_length", "6 turn_length"]));
  // 6 tokens of opening, 6 drawn, 6 of reply and template (the end of the turn among them): 2 are left.
  const cut = await talk({ chat: neverEnds, maxTokens: 20 });
  t.deepEqual(ends(cut), Array(6).fill(["6 turn_length", "2 context_length"]));
});

test("conversation ends: enough turns, no room, the user is done", async (t) => {
  const stops = async (options: Partial<RolloutOptions>) =>
    new Set((await talk(options)).map(({ stop, turns, failure }) => `${stop} after ${turns.length} ${failure ?? ""}`));
  t.deepEqual(await stops({ maxTurns: 2 }), new Set(["max_turns after 2 "]));
  t.deepEqual(await stops({ chat: neverEnds, maxTokens: 20 }), new Set(["context_length after 2 "]));
  t.deepEqual(await stops({ maxTokens: 5 }), new Set(["context_length after 0 "]));
  const environment = scripted({ reply: (turn) => (turn === 1 ? { kind: "done" } : { kind: "message", content: "" }) });
  t.deepEqual(await stops({ environment }), new Set(["user_done after 2 "]));
});

test("TV-29: the last turn counts, or in the reference's form is thrown away and the user has the last word", async (t) => {
  const rolesOf = async (options: Partial<RolloutOptions>) =>
    new Set(
      (await talk({ maxTokens: 90, ...options })).map(({ messages }) => messages.map(({ role }) => role[0]).join("")),
    );
  t.deepEqual(await rolesOf({ maxTurns: 5 }), new Set(["uauauauaua"]));
  t.deepEqual(await rolesOf({ maxTurns: 5, discardLast: true }), new Set(["uauauauau"]));
  const environment = scripted({
    reply: (turn) => (turn === 1 ? { kind: "done" } : { kind: "message", content: "red" }),
  });
  t.deepEqual(await rolesOf({ maxTurns: 5, discardLast: true, environment }), new Set(["uaua"]));
  const [kept] = await talk({ maxTurns: 2, discardLast: true });
  t.deepEqual([kept.turns.length, kept.stop], [1, "max_turns"]);
  t.true(kept.tokens.length > kept.turns[0].end, "the user's message is among the tokens");
});

test("a conversation never grows beyond its limit", async (t) => {
  const environment = scripted({ reply: () => ({ kind: "message", content: "maybe red maybe blue maybe green" }) });
  for (let maxTokens = 6; maxTokens < 40; maxTokens++) {
    for (const { tokens, turns, sampled } of await talk({ environment, maxTokens, maxTurns: 9, chat: neverEnds })) {
      t.true(tokens.length <= maxTokens, `${tokens.length} of ${maxTokens}`);
      t.deepEqual(
        turnRanges(sampled),
        turns.map(({ start, end }) => ({ start, end })),
      );
    }
  }
});

test("what the user says at the end is in the transcript and not in the tokens", async (t) => {
  const done = scripted({ reply: () => ({ kind: "done", content: "thanks" }) });
  const silent = scripted({ reply: () => ({ kind: "done" }) });
  const [said, unsaid] = [await talk({ environment: done }), await talk({ environment: silent })];
  said.forEach(({ messages, tokens, turns, sampled }, i) => {
    t.deepEqual(messages.at(-1), { role: "user", content: "thanks" });
    t.is(unsaid[i].messages.length, messages.length - 1);
    t.deepEqual(tokens, unsaid[i].tokens);
    t.deepEqual([turns.length, turns[0].end, sampled.length], [1, tokens.length, tokens.length]);
  });
});

for (const [where, script] of Object.entries({
  reply: { reply: fail },
  "a reply that comes later": { reply: async () => fail() },
  score: { score: fail },
  begin: { begin: fail },
})) {
  test(`failed by ${where}: marked, with the reason and no metrics, and the others go on`, async (t) => {
    const [[name, broken]] = Object.entries(script);
    const good = scripted();
    const bad = scripted({ [name]: broken });
    const environment = {
      ...good,
      begin: (...args: Parameters<typeof good.begin>) => (args[0] === 1 ? bad : good).begin(...args),
    };
    const expected = await talk();
    (await talk({ environment })).forEach((trajectory, i) => {
      if (trajectory.task !== 1) {
        t.deepEqual(withoutLogprobs([trajectory]), withoutLogprobs([expected[i]]));
        t.true(maxDifference(trajectory.logprobs, expected[i].logprobs) < 1e-5);
        return;
      }
      t.deepEqual([trajectory.stop, trajectory.failure, trajectory.metrics], ["failed", "the judge is ill", {}]);
      t.is(trajectory.turns.length, { begin: 0, score: 3 }[name] ?? 1);
    });
  });
}

function fail(): never {
  throw new Error("the judge is ill");
}

test("users who take their time have the conversations that prompt ones have", async (t) => {
  const random = randomStream(5);
  const later = <T>(value: T) => new Promise<T>((resolve) => setTimeout(resolve, random.int(12), value));
  const answer = (turn: number, task: number, sample: number) =>
    turn === 1 && sample === 1
      ? ({ kind: "done" } as const)
      : ({ kind: "message", content: `maybe ${["red", "blue", "rice"][task]}` } as const);
  const score = () => ({ accuracy: 1 });
  const prompt = await talk({ environment: scripted({ reply: answer, score }) });
  const slow = await talk({
    environment: scripted({ reply: (...args) => later(answer(...args)), score: () => later(score()) }),
  });
  t.deepEqual(withoutLogprobs(slow), withoutLogprobs(prompt));
  slow.forEach(({ logprobs }, i) => {
    t.true(maxDifference(logprobs, prompt[i].logprobs) < 1e-5);
  });
});

/** Rounding depends on who shares the batch. */
function withoutLogprobs(trajectories: readonly Trajectory[]) {
  return trajectories.map(({ logprobs: _, ...rest }) => rest);
}

test("a cache too small for all conversations at once makes them wait, not differ", async (t) => {
  const bytesOfOne = 60 * 2 * 8 * 4;
  const [roomy, tight] = [await talk(), await talk({ cacheGiB: (1.5 * bytesOfOne) / 2 ** 30 })];
  t.deepEqual(withoutLogprobs(tight), withoutLogprobs(roomy));
});

test("the samples of a task share what is computed of their opening, and say what each says without", async (t) => {
  const { policy, chat } = talker({ backend: createCpu({ poison: true, blas: findBlas("none") }) });
  let computed = 0;
  const forwardCached = policy.forwardCached.bind(policy);
  policy.forwardCached = (batch, step) => {
    computed += batch.ids.size;
    return forwardCached(batch, step);
  };
  const opening = chat.open([{ role: "user", content: "help with paint" }]).length;
  const once = { policy, chat, maxTurns: 1 };
  const shared = await talk(once);
  const drawn = shared.reduce((sum, { turns: [{ start, end }] }) => sum + end - start, 0);
  // All but the last token once a task, the last one in each sample; what is drawn last is not computed.
  t.is(computed, 3 * (opening - 1) + 6 + drawn - 6);
  for (const options of [{}, { cacheGiB: (60 * 2 * 8 * 4) / 2 ** 30 }]) {
    const together = await talk({ ...once, maxTurns: 3, ...options });
    const apart = await Promise.all(items.map((item) => talk({ ...once, maxTurns: 3, items: [item] })));
    t.deepEqual(together, apart.flat());
  }
});

test("the seed, the step, the task and the sample each decide what is said", async (t) => {
  const words = async (options: Partial<RolloutOptions>) => (await talk(options)).map(({ tokens }) => [...tokens]);
  const first = await words({});
  t.deepEqual(await words({}), first);
  t.notDeepEqual(await words({ seed: 2 }), first);
  t.notDeepEqual(await words({ step: 1 }), first);
  t.is(new Set(first.map((tokens) => tokens.join(" "))).size, items.length);
});

test("at temperature 0 the samples of a task are alike", async (t) => {
  const trajectories = await talk({ temperature: 0 });
  for (const { tokens } of trajectories) t.deepEqual(tokens, trajectories[0].tokens);
});

test("the log-probs of drawn tokens are what the full forward pass says of them", async (t) => {
  for (const temperature of [1, 0.6]) {
    const trajectories = await talk({ temperature });
    const outputs = await forwardRows(shared.policy, trajectories, { temperature });
    trajectories.forEach(({ logprobs }, i) => {
      t.true(maxDifference(logprobs, outputs[i].logprobs) < 1e-5);
    });
  }
});

test("two rollouts that interleave on one backend leave nothing behind and free none of each other's", async (t) => {
  const backend = createCpu({ poison: true });
  const [one, two] = [talker({ seed: 1, backend }), talker({ seed: 2, backend })];
  const before = backend.memory();
  const slowly = scripted({
    reply: (turn) => new Promise((resolve) => setTimeout(resolve, turn, { kind: "message", content: "maybe red" })),
  });
  const [a, b] = await Promise.all([
    talk({ policy: one.policy, environment: slowly }),
    talk({ policy: two.policy, environment: slowly, maxTurns: 2, seed: 9 }),
  ]);
  const { bytes, buffers } = backend.memory();
  t.deepEqual([bytes, buffers], [before.bytes, before.buffers]);
  t.deepEqual(withoutLogprobs(a), withoutLogprobs(await talk({ environment: slowly })));
  t.deepEqual(withoutLogprobs(b), withoutLogprobs(await talk({ policy: two.policy, maxTurns: 2, seed: 9 })));
});

test("a conversation that the model has no room for is refused before any is had", async (t) => {
  const { policy, chat } = talker({ maxPositions: 40 });
  let begun = 0;
  const environment = scripted({ begin: () => void begun++ });
  await t.throwsAsync(talk({ policy, chat, environment }), { message: /maxTokens is 60.*model.* 40/ });
  t.is(begun, 0);
  t.is((await talk({ policy, chat, maxTokens: 40 })).length, items.length);
});
