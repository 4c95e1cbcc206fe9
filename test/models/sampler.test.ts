import test from "ava";
import fc from "fast-check";
import { createCpu, randomStream } from "../../lib/index.js";
import { type Completion, generate, KvCache, type Qwen, Sampler, score } from "../../models/index.js";
import { maxDifference } from "./fixtures.js";
import { tinyConfig, tinyModel, tinyQwen2 } from "./tiny.js";

const model = tinyModel();
const none: ReadonlySet<number> = new Set();

function samplerOf(of: Qwen, { pages = 64, pageSize = 4, seed = 5, maxBatchTokens = 8192 } = {}) {
  const cache = new KvCache(of.config, { backend: of.backend, pages, pageSize });
  return new Sampler(of, cache, { seed, maxBatchTokens });
}

const prompt = (seed: number, length: number): number[] => {
  const random = randomStream(seed, 1);
  return Array.from({ length }, () => 3 + random.int(tinyConfig.vocabSize - 3));
};

/** A request at temperature 1 in a sequence of its own. */
const request = (sampler: Sampler, task: number, tokens: readonly number[], maxTokens: number) => ({
  ...{ sequence: sampler.cache.open(), tokens, maxTokens, stopIds: none, temperature: 1 },
  site: { step: 1, task, sample: 0, turn: 0 },
});

for (const [name, of, temperature] of [
  ["Qwen3", model, 1],
  ["Qwen3 at temperature 0.7", model, 0.7],
  ["Qwen2 with a tied head", tinyModel({ config: tinyQwen2 }), 1],
] as const) {
  test(`${name}: what decoding with the cache says of its tokens is what the full forward says`, async (t) => {
    const prompts = [prompt(1, 3), prompt(2, 17), prompt(3, 1)];
    const completions = await generate(of, prompts, { maxTokens: 24, temperature, stopIds: [], pageSize: 4 });
    const { logprobs } = await score(
      of,
      prompts.map((tokens, i) => [...tokens, ...completions[i].ids]),
      { temperature },
    );
    completions.forEach(({ ids, logprobs: drawn }, i) => {
      t.is(ids.length, 24);
      t.true(maxDifference(drawn, logprobs[i].slice(prompts[i].length - 1)) < 1e-4);
    });
  });
}

interface Conversation {
  readonly opening: number;
  /** Tokens to draw at most, user tokens after it, and turns of the event loop before it is asked for. */
  readonly turns: readonly { readonly draw: number; readonly reply: number; readonly wait: number }[];
}

/** Has a conversation turn by turn over the cache, as a rollout does. */
async function converse(sampler: Sampler, { opening, turns }: Conversation, task: number): Promise<Completion[]> {
  const tokens = prompt(task, opening);
  const sequence = sampler.cache.open();
  const completions: Completion[] = [];
  for (const [turn, { draw, reply, wait }] of turns.entries()) {
    for (let i = 0; i < wait; i++) await new Promise((resolve) => setImmediate(resolve));
    const completion = await sampler.generate({
      ...{ sequence, tokens: [...tokens], maxTokens: draw, stopIds: new Set([7, 8, 9]), temperature: 1 },
      site: { step: 2, task, sample: 3, turn },
    });
    completions.push(completion);
    tokens.push(...completion.ids, ...prompt(100 * task + turn, reply));
  }
  sampler.cache.close(sequence);
  return completions;
}

const conversation = fc.record({
  opening: fc.integer({ min: 1, max: 20 }),
  turns: fc.array(fc.record({ draw: fc.integer({ min: 1, max: 6 }), reply: fc.nat(5), wait: fc.nat(12) }), {
    minLength: 1,
    maxLength: 3,
  }),
});

test("conversations that interleave draw the tokens that each draws alone", async (t) => {
  const property = fc.asyncProperty(
    fc.array(conversation, { minLength: 1, maxLength: 6 }),
    fc.integer({ min: 1, max: 6 }),
    fc.nat(20),
    fc.constantFrom(1, 2, 5, 16, 8192),
    async (conversations, pageSize, spare, maxBatchTokens) => {
      const alone: Completion[][] = [];
      for (const [task, one] of conversations.entries()) {
        const sampler = samplerOf(model, { pageSize });
        alone.push(await converse(sampler, one, task));
        sampler.cache.dispose();
      }
      // Room for the longest and a little more: idle sequences are evicted, and requests have to wait.
      const longest = conversations.map(({ opening, turns }) =>
        turns.reduce((sum, { draw, reply }) => sum + draw + reply, opening),
      );
      const pages = Math.ceil((Math.max(...longest) + spare) / pageSize);
      const sampler = samplerOf(model, { pages, pageSize, maxBatchTokens });
      const together = await Promise.all(conversations.map((one, task) => converse(sampler, one, task)));
      together.forEach((completions, i) => {
        completions.forEach((completion, turn) => {
          t.deepEqual(completion.ids, alone[i][turn].ids);
          t.is(completion.stop, alone[i][turn].stop);
          t.true(maxDifference(completion.logprobs, alone[i][turn].logprobs) < 1e-4);
        });
      });
      t.is(sampler.cache.freePages, pages);
      t.is(
        sampler.drawn,
        alone.flat().reduce((sum, { ids }) => sum + ids.length, 0),
      );
      sampler.cache.dispose();
    },
  );
  // A fixed seed: rounding depends on the batch's shape, and one draw in a million is that close.
  await fc.assert(property, { numRuns: 60, seed: 20260323 });
});

test("an evicted conversation goes on as if nothing had happened", async (t) => {
  const [first, second] = [
    { opening: 12, turns: turnsOf(2) },
    { opening: 14, turns: turnsOf(1) },
  ];
  const roomy = samplerOf(model, { pages: 32, pageSize: 2 });
  const expected = await Promise.all([converse(roomy, first, 1), converse(roomy, second, 2)]);
  const tight = samplerOf(model, { pages: 13, pageSize: 2 });
  const evict = tight.cache.evict.bind(tight.cache);
  let evictions = 0;
  tight.cache.evict = (sequence) => {
    if (sequence.pages.length > 0) evictions++;
    evict(sequence);
  };
  const started = converse(tight, first, 1);
  const actual = [await converse(tight, second, 2), await started].reverse();
  t.deepEqual(
    actual.flat().map(({ ids }) => ids),
    expected.flat().map(({ ids }) => ids),
  );
  t.true(evictions > 2, "closing two sequences evicts twice; the cache had to evict an idle one beside");
});

function turnsOf(count: number) {
  return Array.from({ length: count }, () => ({ draw: 4, reply: 2, wait: 6 }));
}

test("temperature 0 takes the most likely token, whatever the seed; 1 does not", async (t) => {
  const tokens = prompt(4, 6);
  const draw = async (temperature: number, seed: number) =>
    (await generate(model, [tokens], { maxTokens: 12, temperature, seed, stopIds: [] }))[0].ids;
  const greedy = await draw(0, 1);
  t.deepEqual(await draw(0, 2), greedy);
  t.deepEqual(await draw(1, 3), await draw(1, 3));
  t.notDeepEqual(await draw(1, 3), await draw(1, 4));
  for (let n = 0; n < greedy.length; n++) {
    const before = [...tokens, ...greedy.slice(0, n)];
    const all = Array.from({ length: tinyConfig.vocabSize }, (_, id) => [...before, id]);
    const next = (await score(model, all)).logprobs.map((logprobs) => logprobs.at(-1)!);
    t.is(greedy[n], next.indexOf(Math.max(...next)));
  }
});

test("draws follow the model's distribution", async (t) => {
  const draws = 3000;
  const sampler = samplerOf(model, { pages: draws, pageSize: 4 });
  const tokens = prompt(9, 3);
  const counts = new Array<number>(tinyConfig.vocabSize).fill(0);
  const requests = Array.from({ length: draws }, (_, task) => sampler.generate(request(sampler, task, tokens, 1)));
  for (const { ids } of await Promise.all(requests)) counts[ids[0]]++;
  const all = counts.map((_, id) => [...tokens, id]);
  const probabilities = (await score(model, all)).logprobs.map((logprobs) => Math.exp(logprobs.at(-1)!));
  const chiSquare = counts.reduce((sum, n, id) => {
    const expected = draws * probabilities[id];
    return sum + (n - expected) ** 2 / expected;
  }, 0);
  // 60 degrees of freedom: 112.3 is passed by chance once in 20,000 seeds.
  t.true(chiSquare < 112.3, `χ² ${chiSquare}`);
});

test("a turn ends with the first stop token, which belongs to it", async (t) => {
  const [free] = await generate(model, [prompt(6, 5)], { maxTokens: 20, seed: 2, stopIds: [] });
  t.deepEqual([free.ids.length, free.stop], [20, "length"]);
  const stop = free.ids[11];
  const [stopped] = await generate(model, [prompt(6, 5)], { maxTokens: 20, seed: 2, stopIds: [free.ids[15], stop] });
  t.deepEqual(stopped.ids, free.ids.slice(0, 12));
  t.is(stopped.stop, "stop");
});

test("requests beyond the model's or the cache's limits are refused at once, and the others go on", async (t) => {
  const sampler = samplerOf(model, { pages: 10, pageSize: 4 });
  const ask = (tokens: number, maxTokens: number) =>
    Promise.resolve().then(() => sampler.generate(request(sampler, tokens, prompt(1, tokens), maxTokens)));
  const outcomes = await Promise.allSettled([
    ask(8, 4),
    ask(60, 5),
    ask(38, 4),
    ask(0, 4),
    ask(3, 0),
    ask(37, 4),
    ask(9, 4),
  ]);
  const messages = outcomes.map((outcome) =>
    outcome.status === "rejected" ? (outcome.reason as Error).message : outcome.value.ids.length,
  );
  t.deepEqual(
    [0, 5, 6].map((i) => messages[i]),
    [4, 4, 4],
  );
  t.regex(String(messages[1]), /60 tokens and 5 more exceed the model's 64 positions/);
  t.regex(String(messages[2]), /38 tokens and 4 more do not fit the cache of 10 pages of 4/);
  t.regex(String(messages[3]), /0 tokens and maxTokens 4; it needs at least one of each/);
  t.regex(String(messages[4]), /3 tokens and maxTokens 0/);
});

test("a request must bring a token that is not in the cache yet", async (t) => {
  const sampler = samplerOf(model);
  const first = request(sampler, 1, prompt(1, 6), 1);
  const [{ ids }] = [await sampler.generate(first)];
  t.throws(() => sampler.generate(first), { message: /all 6 tokens are in the cache already/ });
  sampler.cache.evict(first.sequence);
  t.deepEqual((await sampler.generate(first)).ids, ids);
});

test("a sequence is continued by one request at a time", async (t) => {
  const sampler = samplerOf(model);
  const first = request(sampler, 1, prompt(1, 6), 3);
  const going = sampler.generate(first);
  const again = () => sampler.generate({ ...first, tokens: prompt(1, 9) });
  t.throws(again, { message: /this sequence is being continued already; await that first, or open another/ });
  await new Promise((resolve) => setImmediate(resolve));
  t.throws(again, { message: /continued already/ });
  const { ids } = await going;
  const alone = samplerOf(model);
  t.deepEqual(ids, (await alone.generate(request(alone, 1, prompt(1, 6), 3))).ids);
  await t.notThrowsAsync(async () => sampler.generate({ ...first, tokens: [...prompt(1, 6), ...ids] }));
});

test("when a forward pass fails, every request fails with it and none hangs", async (t) => {
  const sampler = samplerOf(model, { pages: 8, pageSize: 4 });
  const requests = [1, 2, 3].map((task) => sampler.generate(request(sampler, task, prompt(task, 8), 5)));
  sampler.cache.dispose();
  for (const outcome of await Promise.allSettled(requests)) t.is(outcome.status, "rejected");
  await t.throwsAsync(sampler.generate(request(sampler, 4, prompt(1, 8), 5)), { message: /was disposed of/ });
});

test("sampling leaves nothing behind", async (t) => {
  const backend = createCpu({ poison: true });
  const own = tinyModel({ backend });
  const before = backend.memory();
  await generate(own, [prompt(1, 9), prompt(2, 4)], { maxTokens: 7, pageSize: 4 });
  const { bytes, buffers } = backend.memory();
  t.deepEqual([bytes, buffers], [before.bytes, before.buffers]);
});

test("generate reports each completion once, by the prompt's index", async (t) => {
  const seen = new Map<number, Completion>();
  const options = {
    maxTokens: 6,
    onCompletion: (index: number, completion: Completion) => seen.set(index, completion),
  };
  const completions = await generate(model, [prompt(1, 9), prompt(2, 4), prompt(3, 2)], options);
  t.deepEqual(new Map(completions.entries()), new Map([...seen].sort()));
});

test.serial("a deadline ends a request with what was drawn so far, whether it runs or waits", async (t) => {
  const sampler = samplerOf(model, { pages: 10, pageSize: 4 });
  const drawn: number[] = [];
  const running = request(sampler, 1, prompt(1, 6), 30);
  const deadline = performance.now() + 500;
  const onToken = (id: number) => {
    drawn.push(id);
    while (drawn.length === 3 && performance.now() < deadline);
  };
  const completions = await Promise.all([
    sampler.generate({ ...running, deadline, onToken }),
    sampler.generate({ ...request(sampler, 2, prompt(2, 6), 30), deadline }),
  ]);
  t.deepEqual(
    completions.map(({ stop }) => stop),
    ["deadline", "deadline"],
  );
  t.is(drawn.length, 3);
  t.deepEqual(completions[0].ids, drawn);
  t.deepEqual(completions[1].ids, []);
  sampler.cache.reset();
  t.is(sampler.cache.freePages, 10);
});

test("filters cut what is drawn, and the log-prob stays that of the whole distribution", async (t) => {
  const tokens = prompt(4, 6);
  const options = { maxTokens: 12, stopIds: [], seed: 3 };
  const [greedy] = await generate(model, [tokens], { ...options, temperature: 0 });
  for (const cut of [{ topK: 1 }, { topP: 1e-9 }, { minP: 1 }]) {
    const [{ ids, logprobs }] = await generate(model, [tokens], { ...options, ...cut });
    t.deepEqual(ids, greedy.ids);
    t.true(maxDifference(logprobs, greedy.logprobs) < 1e-5);
  }
  const [free] = await generate(model, [tokens], options);
  t.deepEqual((await generate(model, [tokens], { ...options, topK: 61, topP: 1, minP: 0 }))[0].ids, free.ids);
  await t.throwsAsync(generate(model, [tokens], { ...options, topP: 0 }), { message: /topP is 0; it must be above 0/ });
});

test("a prompt that is computed once and forked is continued as if each had computed it", async (t) => {
  for (const length of [1, 4, 5, 11]) {
    const [shared, apart] = [samplerOf(model), samplerOf(model)];
    const tokens = prompt(length, length + 1);
    const opening = shared.cache.open();
    await shared.prefill({ sequence: opening, tokens: tokens.slice(0, -1) });
    const samples = [1, 2, 3, 4];
    const forked = await Promise.all(
      samples.map((task) =>
        shared.generate({ ...request(shared, task, tokens, 7), sequence: shared.cache.fork(opening) }),
      ),
    );
    const alone = await Promise.all(samples.map((task) => apart.generate(request(apart, task, tokens, 7))));
    forked.forEach(({ ids, logprobs }, i) => {
      t.deepEqual(ids, alone[i].ids);
      t.true(maxDifference(logprobs, alone[i].logprobs) < 1e-5);
    });
    shared.cache.close(opening);
    shared.cache.reset();
    t.is(shared.cache.freePages, 64);
  }
});

test("what onToken throws ends its own request alone", async (t) => {
  const sampler = samplerOf(model);
  const fail = () => {
    throw new Error("the listener is gone");
  };
  const [bad, good] = await Promise.allSettled([
    sampler.generate({ ...request(sampler, 1, prompt(1, 6), 5), onToken: fail }),
    sampler.generate(request(sampler, 2, prompt(2, 6), 5)),
  ]);
  t.is(bad.status === "rejected" && (bad.reason as Error).message, "the listener is gone");
  t.is(good.status === "fulfilled" && good.value.ids.length, 5);
});

test("weights that change between turns empty the cache; under a running request they end it", async (t) => {
  const own = tinyModel({ seed: 8 });
  const sampler = samplerOf(own);
  const change = () => {
    const weight = own.parameters.get("model.norm.weight")!;
    using scaled = weight.mul(1.5);
    weight.assign(scaled);
  };
  const first = request(sampler, 1, prompt(1, 6), 3);
  const { ids } = await sampler.generate(first);
  change();
  const next = { ...first, tokens: [...first.tokens, ...ids, 9] };
  const fresh = samplerOf(own);
  const expected = await fresh.generate({ ...next, sequence: fresh.cache.open() });
  t.deepEqual(await sampler.generate(next), expected);
  const running = sampler.generate({ ...request(sampler, 2, prompt(2, 6), 20), onToken: () => change() });
  await t.throwsAsync(running, { message: /the weights changed while sequences were being continued/ });
  t.is(sampler.cache.pagesPromised, 0);
  sampler.cache.reset();
  t.is(sampler.cache.freePages, 64);
});
