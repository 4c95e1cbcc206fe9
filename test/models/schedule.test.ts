import test from "ava";
import fc from "fast-check";
import { createCpu } from "../../lib/index.js";
import { KvCache, Sampler } from "../../models/index.js";
import { admit, planStep, promptBudget, type Workload, waitsForCompany } from "../../models/schedule.js";
import { tinyConfig, tinyModel } from "./tiny.js";

const tasks = (...pending: number[]) => pending.map((tokens, served) => ({ pending: tokens, served }));
const counts = (active: readonly Workload[], budget: number) => {
  const plan = new Map(planStep(active, budget).map(({ task, count }) => [task, count]));
  return active.map((task) => plan.get(task) ?? 0);
};

test("every sequence that decodes has a token, and prompts have the rest, the first come first", (t) => {
  t.deepEqual(counts(tasks(1, 30, 1, 5), 100), [1, 30, 1, 5]);
  t.deepEqual(counts(tasks(1, 30, 1, 5), 20), [1, 18, 1, 0]);
  t.deepEqual(counts(tasks(30, 5), 8), [8, 0]);
});

test("prompts keep a quarter of the tokens where many decode; then the least recently served decode", (t) => {
  const decoding = tasks(...Array<number>(10).fill(1));
  t.deepEqual(counts([...decoding, { pending: 9, served: 0 }], 8), [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 2]);
  t.deepEqual(counts([...decoding.toReversed(), { pending: 9, served: 0 }], 8).indexOf(1), 4);
});

test("beside steps that decode, prompts go in passes of a quarter", (t) => {
  t.deepEqual([promptBudget(8, 0), promptBudget(8, 1), promptBudget(8, 99), promptBudget(1, 1)], [8, 2, 2, 1]);
});

test("a few tokens wait three steps of others for company; many, a full pass, and those that are alone do not", (t) => {
  const waits = (tokens: number, { budget = 2048, decoding = 1 } = {}) =>
    [0, 1, 2, 3].map((waited) => waitsForCompany(tokens, budget, decoding, waited));
  t.deepEqual(waits(255), [true, true, true, false]);
  for (const at of [waits(256), waits(64, { budget: 64 }), waits(1, { decoding: 0 })]) t.false(at.includes(true));
});

test("a plan keeps to its budget and uses it; nobody gets more than is pending", (t) => {
  const workload = fc.record({ pending: fc.integer({ min: 1, max: 40 }), served: fc.nat(20) });
  const property = fc.property(
    fc.array(workload, { maxLength: 20 }),
    fc.integer({ min: 1, max: 64 }),
    (active, budget) => {
      const given = counts(active, budget);
      const total = given.reduce((a, b) => a + b, 0);
      const wanted = active.reduce((sum, { pending }) => sum + pending, 0);
      t.is(total, Math.min(wanted, budget));
      t.true(given.every((count, i) => count <= active[i].pending));
    },
  );
  fc.assert(property);
});

test("room is made by evicting idle sequences, the least recently used first, and only where that suffices", (t) => {
  const cache = new KvCache(tinyConfig, { backend: createCpu(), pages: 6, pageSize: 2 });
  const [old, recent, busy, next] = [cache.open(), cache.open(), cache.open(), cache.open()];
  cache.extend([recent], [2]);
  cache.extend([old, busy], [4, 2]);
  cache.extend([recent], [2]);
  busy.target = 4;
  t.false(admit(cache, next, 10, cache.pagesPromised), "one page is held, one promised");
  t.deepEqual([old.length, recent.length], [4, 4]);
  t.true(admit(cache, next, 4, cache.pagesPromised));
  t.deepEqual([old.length, recent.length, next.target], [0, 4, 4]);
  t.is(cache.pagesPromised, 3);
  cache.dispose();
});

test("a page that only idle sequences share counts as free, and need not be copied after all", (t) => {
  const cache = new KvCache(tinyConfig, { backend: createCpu(), pages: 3, pageSize: 4 });
  const source = cache.open();
  cache.extend([source], [6]);
  const fork = cache.fork(source);
  cache.extend([source], [1]);
  t.true(admit(cache, fork, 12, 0));
  t.deepEqual([source.length, fork.length, cache.pagesPromised], [0, 6, 1]);
  cache.dispose();
});

const model = tinyModel();
const ask = (sampler: Sampler, task: number, tokens: number, maxTokens: number, ended: number[]) =>
  sampler
    .generate({
      ...{ sequence: sampler.cache.open(), tokens: Array(tokens).fill(5), maxTokens, stopIds: new Set<number>() },
      ...{ temperature: 1, site: { step: 0, task, sample: 0, turn: 0 } },
    })
    .then(() => void ended.push(task));

test("a large request is not overtaken by small ones that come later", async (t) => {
  const cache = new KvCache(tinyConfig, { backend: model.backend, pages: 8, pageSize: 4 });
  const sampler = new Sampler(model, cache, { seed: 1 });
  const ended: number[] = [];
  const first = ask(sampler, 0, 8, 9, ended);
  const large = ask(sampler, 1, 20, 12, ended);
  let small: Promise<void>[] = [];
  for (let task = 2; task < 40; task++) small = [...small, ask(sampler, task, 2, 2, ended)];
  await Promise.all([first, large, ...small]);
  t.deepEqual(ended.slice(0, 2), [0, 1]);
  cache.dispose();
});

test("no more than maxBatch sequences are continued at once", async (t) => {
  const cache = new KvCache(tinyConfig, { backend: model.backend, pages: 64, pageSize: 4 });
  const sampler = new Sampler(model, cache, { seed: 1, maxBatch: 3 });
  let most = 0;
  const extend = cache.extend.bind(cache);
  cache.extend = (sequences, counts) => {
    most = Math.max(most, sequences.length);
    return extend(sequences, counts);
  };
  const ended: number[] = [];
  await Promise.all(Array.from({ length: 9 }, (_, task) => ask(sampler, task, 3 + task, 4, ended)));
  t.deepEqual([most, ended.length], [3, 9]);
  cache.dispose();
});
