/*
 * Drawing on the device, with stand-ins for its kernels, against drawing on the host. test/models/interleaving.test.ts has
 * the property that whatever is asked for comes out the same; here are the single promises.
 */
import test from "ava";
import { arena, noGrad, noiseKey, randomStream, seedKey } from "../../lib/index.js";
import {
  type Completion,
  KvCache,
  type LikelyToken,
  type SampleRequest,
  Sampler,
  type SamplerOptions,
} from "../../models/index.js";
import { MOST_WAITS } from "../../models/schedule.js";
import { canUseSlots } from "../../models/taskSlots.js";
import { createCpuWithSlots } from "./slotKernels.js";
import { tinyConfig, tinyModel } from "./tiny.js";

const PAGES = 128;

/** A sampler on a backend of its own, with all that can be watched. */
function open(options: Partial<SamplerOptions> = {}, delay?: () => number) {
  const backend = createCpuWithSlots({ poison: true, delay });
  const model = tinyModel({ backend });
  const modelBytes = backend.memory().bytes;
  /** Slots of each step, those that only record one included. */
  const steps: number[] = [];
  const { planSlots } = backend.fused;
  backend.fused.planSlots = (slots, layout) => {
    steps.push(slots.lengths.shape[0]);
    planSlots!(slots, layout);
  };
  const cache = new KvCache(model.config, { backend, pages: PAGES, pageSize: 4 });
  const sampler = new Sampler(model, cache, { seed: 5, drawsOn: "device", ...options });
  return { backend, model, modelBytes, steps, cache, sampler };
}

const prompt = (seed: number, length: number): number[] => {
  const random = randomStream(seed, 1);
  return Array.from({ length }, () => 3 + random.int(tinyConfig.vocabSize - 3));
};

const request = ({ cache }: Sampler, task: number, length: number, maxTokens: number): SampleRequest => ({
  ...{ sequence: cache.open(), tokens: prompt(task, length), maxTokens, stopIds: new Set<number>(), temperature: 1 },
  site: { step: 1, task, sample: 0, turn: 0 },
});

/** What the host draws for the same request, alone. */
function onHost(asked: SampleRequest): Promise<Completion> {
  const { sampler } = open({ drawsOn: "host" });
  return sampler.generate({ ...asked, sequence: sampler.cache.open(), onToken: undefined, signal: undefined });
}

const turnOfTheLoop = () => new Promise((resolve) => setImmediate(resolve));

test("steps are enqueued two ahead of the result that is awaited", async (t) => {
  const { sampler, steps } = open({}, () => 3);
  const ahead: number[] = [];
  let [drawn, recorded] = [0, 0];
  const onToken = () => {
    if (drawn === 0) recorded = steps.length - 3;
    ahead.push(steps.length - recorded - ++drawn);
  };
  const asked = { ...request(sampler, 1, 5, 8), onToken };
  t.deepEqual(await sampler.generate(asked), await onHost(asked));
  t.deepEqual(ahead, [2, 2, 2, 2, 2, 2, 1, 0], "and none for a sequence that has all its tokens");
});

test("logits are not read, and every token is told with its log-prob", async (t) => {
  const { backend, sampler } = open();
  const { download } = backend;
  let most = 0;
  backend.download = (x) => {
    most = Math.max(most, x.shape.at(-1)!);
    return download(x);
  };
  const told: [number, number][] = [];
  const onToken = (id: number, logprob: number) => void told.push([id, logprob]);
  const asked = { ...request(sampler, 1, 5, 8), onToken };
  const { ids, logprobs } = await sampler.generate(asked);
  t.deepEqual(
    told,
    ids.map((id, i) => [id, logprobs[i]]),
  );
  t.true(most <= tinyConfig.hiddenSize);
  t.is(sampler.drawn, 8);
});

test("more stop ids than the device looks for: the host sees the others, and drops what was drawn after", async (t) => {
  const { sampler, cache } = open();
  const free = await onHost(request(sampler, 3, 5, 30));
  const at = 9;
  const others = Array.from({ length: tinyConfig.vocabSize }, (_, id) => id).filter((id) => !free.ids.includes(id));
  t.true(others.length >= 8);
  for (const stopIds of [new Set([free.ids[at]]), new Set([...others.slice(0, 20), free.ids[at]])]) {
    const asked = { ...request(sampler, 3, 5, 30), stopIds };
    const completion = await sampler.generate(asked);
    t.deepEqual(completion, await onHost(asked));
    t.is(completion.stop, "stop");
    const { length, pages } = asked.sequence;
    t.is(length, 5 + completion.ids.length - 1, "the stop token is not in the cache");
    t.is(pages.length, Math.ceil(length / 4), "reserved pages went back");
    const next = { ...asked, tokens: [...asked.tokens, ...completion.ids, 4, 5], site: { ...asked.site, turn: 1 } };
    t.deepEqual(await sampler.generate(next), await onHost(next));
    cache.close(asked.sequence);
  }
  t.is(cache.freePages, PAGES);
});

test("what is cancelled, or ended by its listener, leaves its slot and its sequence fit for use", async (t) => {
  const { sampler, cache } = open({}, () => 2);
  const controller = new AbortController();
  const cancelled = { ...request(sampler, 1, 6, 40), signal: controller.signal };
  const broken = request(sampler, 2, 6, 40);
  const whole = request(sampler, 3, 6, 40);
  let seen = 0;
  const outcomes = await Promise.allSettled([
    sampler.generate({ ...cancelled, onToken: () => void (++seen === 4 && controller.abort()) }),
    sampler.generate({
      ...broken,
      onToken() {
        throw new Error("the listener is gone");
      },
    }),
    sampler.generate(whole),
  ]);
  const [first, second, third] = outcomes;
  const { ids } = await onHost(cancelled);
  t.deepEqual(first.status === "fulfilled" && [first.value.stop, first.value.ids], ["cancelled", ids.slice(0, 4)]);
  t.is(second.status === "rejected" && (second.reason as Error).message, "the listener is gone");
  t.deepEqual(third.status === "fulfilled" && third.value, await onHost(whole));
  t.deepEqual([cancelled.sequence.length, broken.sequence.length], [9, 6]);
  for (const { tokens, ...rest } of [{ ...cancelled, tokens: [...cancelled.tokens, ...ids.slice(0, 4)] }, broken]) {
    const again = { ...rest, tokens: [...tokens, 7, 8], signal: undefined };
    t.deepEqual(await sampler.generate(again), await onHost(again));
  }
  cache.reset();
  t.is(cache.freePages, PAGES);
});

test("what was cancelled writes no more to pages that others have now", async (t) => {
  const { sampler, cache } = open();
  const controller = new AbortController();
  const [first, ...others] = [1, 2, 3, 4].map((task) => request(sampler, task, 6, 40));
  let seen = 0;
  const cancelled = sampler.generate({
    ...{ ...first, signal: controller.signal },
    onToken: () => void (++seen === 2 && controller.abort()),
  });
  const going = Promise.all(others.map((asked) => sampler.generate(asked)));
  await cancelled;
  // Takes pages, but no slot, while the others' steps go on.
  const next = request(sampler, 5, 21, 6);
  await sampler.prefill({ sequence: next.sequence, tokens: next.tokens.slice(0, -1) });
  t.deepEqual(await going, await Promise.all(others.map(onHost)));
  t.deepEqual(await sampler.generate(next), await onHost(next));
  cache.dispose();
});

test("a request joins those that decode, and draws what it draws alone", async (t) => {
  const { sampler } = open({}, () => 1);
  let joined: Promise<Completion> | undefined;
  const late = request(sampler, 2, 9, 3);
  const ended: string[] = [];
  const long = {
    ...request(sampler, 1, 4, 50),
    onToken: () => {
      joined ??= sampler.generate(late).finally(() => ended.push("late"));
    },
  };
  const completion = await sampler.generate(long).finally(() => ended.push("long"));
  t.deepEqual(completion, await onHost(long));
  t.deepEqual(await joined, await onHost(late));
  t.deepEqual(ended, ["late", "long"]);
});

test("turns that arrive within a few steps of those that decode are computed in one pass, and none waits long", async (t) => {
  const { sampler, model, steps } = open({}, () => 1);
  /** Sequences in each pass over prompts, and the steps that were enqueued before it. */
  const passes: { sequences: number; after: number }[] = [];
  const forward = model.forwardCached.bind(model);
  model.forwardCached = (batch, step) => {
    if ("offsets" in step.context) passes.push({ sequences: step.context.lengths.length, after: steps.length });
    return forward(batch, step);
  };
  const late = [2, 3, 4].map((task) => request(sampler, task, 9, 3));
  const joined: Promise<Completion>[] = [];
  let arrival = 0;
  const long = {
    ...request(sampler, 1, 4, 40),
    onToken: () => {
      if (joined.length === 0) arrival = steps.length;
      if (joined.length < late.length) joined.push(sampler.generate(late[joined.length]));
    },
  };
  t.deepEqual(await sampler.generate(long), await onHost(long));
  t.deepEqual(await Promise.all(joined), await Promise.all(late.map(onHost)));
  t.deepEqual(
    passes.map(({ sequences }) => sequences),
    [1, 3],
  );
  t.true(passes[1].after - arrival <= MOST_WAITS);
});

test("steps get smaller as sequences end", async (t) => {
  const { sampler, steps } = open();
  const requests = Array.from({ length: 9 }, (_, task) => request(sampler, task, 3, task === 8 ? 40 : 5));
  const completions = await Promise.all(requests.map((asked) => sampler.generate(asked)));
  t.deepEqual([Math.max(...steps), steps.at(-1)], [16, 1]);
  t.deepEqual(completions, await Promise.all(requests.map(onHost)));
});

test("where there are more sequences than slots, those that are left over wait", async (t) => {
  const { sampler, steps } = open({ maxBatch: 2 });
  const requests = Array.from({ length: 5 }, (_, task) => request(sampler, task, 3, 4 + task));
  const completions = await Promise.all(requests.map((asked) => sampler.generate(asked)));
  t.is(Math.max(...steps), 2);
  t.deepEqual(completions, await Promise.all(requests.map(onHost)));
});

test("the device's memory goes back with the cache's, and both come again", async (t) => {
  const { backend, modelBytes, sampler, cache } = open();
  const asked = request(sampler, 1, 5, 6);
  const first = await sampler.generate(asked);
  t.true(backend.memory().bytes > modelBytes);
  cache.release();
  t.is(backend.memory().bytes, modelBytes);
  t.deepEqual(await sampler.generate(asked), first);
  cache.dispose();
  t.is(backend.memory().bytes, modelBytes);
});

test("other weights: between turns all is computed again, under a running request they end it", async (t) => {
  const { model, modelBytes, backend, sampler, cache } = open();
  const weight = model.parameters.get("model.norm.weight")!;
  const change = () => noGrad(() => arena(() => weight.assign(weight.mul(1.5))));
  const first = request(sampler, 1, 6, 5);
  const { ids } = await sampler.generate(first);
  change();
  const next = { ...first, tokens: [...first.tokens, ...ids, 9] };
  const other = new KvCache(model.config, { backend, pages: 16, pageSize: 4 });
  const host = new Sampler(model, other, { seed: 5, drawsOn: "host" });
  t.deepEqual(await sampler.generate(next), await host.generate({ ...next, sequence: host.cache.open() }));
  host.cache.dispose();
  // With one token there is nothing in the cache yet, only pages that the device writes to.
  for (const length of [1, 6]) {
    const running = sampler.generate({ ...request(sampler, 2, length, 20), onToken: change });
    await t.throwsAsync(running, { message: /the weights changed while sequences were being continued/ });
  }
  cache.reset();
  t.is(cache.freePages, PAGES);
  cache.dispose();
  t.is(backend.memory().bytes, modelBytes);
});

test("a cache that goes under a running request ends it; logits that are no numbers end the request that draws", async (t) => {
  const gone = open();
  const running = gone.sampler.generate({ ...request(gone.sampler, 1, 3, 20), onToken: () => gone.cache.dispose() });
  await t.throwsAsync(running, { message: /the cache was emptied while sequences were being continued/ });
  t.is(gone.backend.memory().bytes, gone.modelBytes);

  const { model, sampler, cache } = open();
  const weight = model.parameters.get("model.norm.weight")!;
  using broken = weight.mul(Number.NaN);
  weight.assign(broken);
  await t.throwsAsync(sampler.generate(request(sampler, 1, 3, 20)), {
    message: /no logit of the next token is a number/,
  });
  t.is(cache.freePages, PAGES);
});

test("the event loop goes on while results are awaited", async (t) => {
  const { sampler } = open({}, () => 20);
  let turns = 0;
  let isDone = false;
  const going = sampler.generate(request(sampler, 1, 3, 10)).finally(() => {
    isDone = true;
  });
  while (!isDone) {
    turns++;
    await turnOfTheLoop();
  }
  await going;
  t.true(turns > 30, `${turns} turns`);
});

test("the device draws where it has the kernels and takes the model's element type, the host elsewhere", async (t) => {
  const { backend, steps, model } = open();
  t.true(canUseSlots(model));
  const draw = async (options: Partial<SamplerOptions>) => {
    const before = steps.length;
    const cache = new KvCache(model.config, { backend, pages: 8, pageSize: 4 });
    const sampler = new Sampler(model, cache, { seed: 5, ...options });
    await sampler.generate(request(sampler, 1, 3, 2));
    cache.dispose();
    return steps.length > before;
  };
  t.deepEqual(
    [await draw({}), await draw({ drawsOn: "host" }), await draw({ drawsOn: "device" })],
    [true, false, true],
  );
  const { record, takesSlots } = backend.fused;
  for (const lacks of [{ record: undefined }, { takesSlots: undefined }, { takesSlots: () => false }]) {
    Object.assign(backend.fused, { record, takesSlots }, lacks);
    t.false(canUseSlots(model));
    t.false(await draw({}));
    const message = /of a model in f32 cannot be drawn on cpu; leave drawsOn out, or use cuda and bf16/;
    await t.throwsAsync(draw({ drawsOn: "device" }), { message });
  }
});

test("a site beyond what names noise is refused, as on the host", async (t) => {
  const { sampler } = open();
  const asked = request(sampler, 1, 3, 2);
  const site = { ...asked.site, sample: 2 ** 16 };
  t.throws(() => noiseKey(seedKey(1), { ...site, position: 1 }), { message: /must be < 65536/ });
  t.throws(() => sampler.generate({ ...asked, site }), { message: /must be < 65536/ });
  // Whoever else asks is not disturbed.
  t.is((await sampler.generate(asked)).ids.length, 2);
});

test("a request for the most likely tokens is drawn on the host, beside those with a slot", async (t) => {
  const { sampler, cache } = open({}, () => 1);
  const told: number[] = [];
  const likely = {
    ...{ ...request(sampler, 1, 5, 8), topLogprobs: 2 },
    onToken: (id: number, logprob: number, most: readonly LikelyToken[]) =>
      void told.push(most.length, Number(most.some((one) => one.id !== id || one.logprob === logprob))),
  };
  const others = [2, 3].map((task) => request(sampler, task, 4 + task, 12));
  const [first, ...rest] = await Promise.all([likely, ...others].map((asked) => sampler.generate(asked)));
  t.deepEqual(first, await onHost(likely));
  t.deepEqual(rest, await Promise.all(others.map(onHost)));
  t.deepEqual(told, new Array<number[]>(8).fill([2, 1]).flat());
  cache.reset();
  t.is(cache.freePages, PAGES);
});
