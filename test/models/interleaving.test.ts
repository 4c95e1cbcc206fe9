/*
 * Whatever shares the engine with a conversation, it goes as it would alone, to the bit, with a BLAS and without.
 */
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { findBlas, randomStream, type Sampling } from "../../lib/index.js";
import {
  type CachedSequence,
  type Completion,
  KvCache,
  type Qwen,
  Sampler,
  type SamplerOptions,
  score,
} from "../../models/index.js";
import { createCpuWithSlots } from "./slotKernels.js";
import { tinyConfig, tinyModel, tinyQwen2 } from "./tiny.js";

/** The members of a group open alike and share what is computed of their opening. */
interface Group {
  readonly opening: number;
  readonly sampling: Sampling;
  /** Turns of the event loop before the group arrives. */
  readonly arrival: number;
  readonly members: readonly (readonly Turn[])[];
}

interface Turn {
  readonly draw: number;
  /** Tokens that the user answers with. */
  readonly reply: number;
  /** Turns of the event loop before the policy is asked. */
  readonly wait: number;
  /** What happens after so many drawn tokens, before the request ends by itself. */
  readonly interruption?: { readonly after: number; readonly how: "cancelled" | "deadline" };
  /** Evict the sequence before the turn. */
  readonly evict: boolean;
  /** Another goes on from here in its own words, with what the cache has, or the first part of it: this share. */
  readonly fork?: number;
}

const turn: fc.Arbitrary<Turn> = fc.record({
  draw: fc.integer({ min: 1, max: 6 }),
  reply: fc.nat(5),
  wait: fc.oneof(fc.constant(0), fc.nat(12)),
  interruption: fc.option(
    fc.record({ after: fc.nat(3), how: fc.constantFrom("cancelled" as const, "deadline" as const) }),
    { nil: undefined, freq: 6 },
  ),
  evict: fc.constantFrom(false, false, false, false, true),
  fork: fc.option(fc.constantFrom(0, 0.5, 1), { nil: undefined, freq: 3 }),
});

const group: fc.Arbitrary<Group> = fc.record({
  opening: fc.integer({ min: 1, max: 20 }),
  sampling: fc.constantFrom<Sampling>(
    { temperature: 1 },
    { temperature: 0 },
    // Numbers that f32 holds: a device has them in f32.
    { temperature: 0.75, topP: 0.875 },
    { temperature: 1.25, topK: 12, minP: 0.03125 },
  ),
  arrival: fc.nat(10),
  members: fc.array(fc.array(turn, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 4 }),
});

const oddQwen2 = { ...tinyQwen2, heads: 6, kvHeads: 3, headDim: 10, hiddenSize: 60, intermediateSize: 84 };

const text = (seed: number, length: number): number[] => {
  const random = randomStream(seed, 3);
  return Array.from({ length }, () => 3 + random.int(tinyConfig.vocabSize - 3));
};

const turnsOfTheLoop = async (count: number) => {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
};

interface Record {
  readonly tokens: readonly number[];
  readonly completions: readonly Completion[];
  /** Where each completion starts. */
  readonly starts: readonly number[];
  /** Those that went on from the midst of this one, in order. */
  readonly forks: readonly Record[];
}

/** A conversation to have: whose it is, and what of it was had before. */
interface Part {
  readonly group: Group;
  readonly turns: readonly Turn[];
  readonly place: readonly [task: number, sample: number];
  /** Turn by turn with nobody else: no interruptions, and forks start from nothing. */
  readonly alone: boolean;
  /** Set in a fork. */
  readonly past?: { readonly tokens: readonly number[]; readonly turns: number };
}

/** One member's conversation in a sequence that may have part of it already. */
async function converse(sampler: Sampler, sequence: CachedSequence, part: Part): Promise<Record> {
  const { group, turns, alone, past } = part;
  const { sampling, opening } = group;
  const [task, sample] = part.place;
  const tokens = past ? [...past.tokens] : text(task, opening);
  const completions: Completion[] = [];
  const starts: number[] = [];
  const forks: Promise<Record>[] = [];
  for (const [index, { draw, reply, wait, interruption, evict, fork }] of turns.entries()) {
    if (index < (past?.turns ?? 0)) continue;
    await turnsOfTheLoop(wait);
    if (evict) sampler.cache.evict(sequence);
    if (fork !== undefined && !past) {
      const other = alone ? sampler.cache.open() : sampler.cache.fork(sequence, Math.floor(fork * sequence.length));
      const place = [task, 100 * (sample + 1) + index] as const;
      const going = converse(sampler, other, { ...part, place, past: { tokens: [...tokens], turns: index } });
      forks.push(going);
      if (alone) await going;
    }
    const controller = new AbortController();
    const stopped = alone ? undefined : interruption;
    let drawn = 0;
    const interrupt = () => {
      if (stopped && drawn++ === stopped.after && stopped.how !== "deadline") controller.abort();
    };
    interrupt();
    const going = sampler.generate({
      ...{ ...sampling, sequence, tokens, maxTokens: draw, stopIds: new Set([7, 8, 9]) },
      site: { step: 2, task, sample, turn: index },
      signal: controller.signal,
      deadline: stopped?.how === "deadline" ? performance.now() + stopped.after : undefined,
      onToken: interrupt,
    });
    starts.push(tokens.length);
    const completion = await going;
    completions.push(completion);
    tokens.push(...completion.ids);
    if (stopped) break;
    tokens.push(...text(100 * task + index, reply + 1));
  }
  sampler.cache.close(sequence);
  return { tokens, completions, starts, forks: await Promise.all(forks) };
}

/** A group's conversations, all at once; its opening is computed once and forked. */
async function gather(sampler: Sampler, group: Group, task: number): Promise<Record[]> {
  await turnsOfTheLoop(group.arrival);
  const opening = sampler.cache.open();
  if (group.opening > 1) await sampler.prefill({ sequence: opening, tokens: text(task, group.opening).slice(0, -1) });
  const members = group.members.map((turns, sample) =>
    converse(sampler, sampler.cache.fork(opening), { group, turns, place: [task, sample], alone: false }),
  );
  sampler.cache.close(opening);
  return Promise.all(members);
}

const samplerOf = (model: Qwen, pages: number, pageSize: number, limits: Omit<SamplerOptions, "seed"> = {}) =>
  new Sampler(model, new KvCache(model.config, { backend: model.backend, pages, pageSize }), { seed: 5, ...limits });

/** What a conversation may grow to. */
const longest = (group: Group) =>
  Math.max(
    ...group.members.map((turns) => turns.reduce((sum, { draw, reply }) => sum + draw + reply + 1, group.opening)),
  );

/** What was drawn is what is drawn alone, up to where it was interrupted. */
function checkSame(t: ExecutionContext, record: Record, alone: Record, turns: readonly Turn[]): void {
  const first = turns.length - alone.completions.length;
  for (const [turn, { ids, logprobs, stop }] of record.completions.entries()) {
    const expected = alone.completions[turn];
    const ended = turns[first + turn].interruption && stop !== expected.stop;
    if (ended) t.regex(stop, /cancelled|deadline/);
    else t.is(ids.length, expected.ids.length);
    t.deepEqual(ids, expected.ids.slice(0, ids.length));
    t.deepEqual(logprobs, expected.logprobs.slice(0, ids.length));
  }
  // Those after an interruption were not begun.
  for (const [i, fork] of record.forks.entries()) checkSame(t, fork, alone.forks[i], turns);
}

/** The full forward pass gives the same bits as the one over the cache. */
async function checkScores(t: ExecutionContext, model: Qwen, { sampling }: Group, records: Record[]): Promise<void> {
  const rows = records.map(({ tokens }) => tokens);
  const scores = await score(model, rows, { temperature: sampling.temperature || 1 });
  records.forEach(({ completions, starts }, i) => {
    completions.forEach(({ logprobs }, turn) => {
      const said = scores.logprobs[i].slice(starts[turn] - 1, starts[turn] - 1 + logprobs.length);
      t.deepEqual(logprobs, [...said]);
    });
  });
}

for (const blas of [findBlas("none"), findBlas()]) {
  for (const [drawsOn, config] of [
    ["host", tinyConfig],
    ["device", tinyConfig],
    ["host", oddQwen2],
    ["device", oddQwen2],
  ] as const) {
    test(`${config.architecture}, ${blas.description}, draws on the ${drawsOn}: conversations that share the engine go as each does alone, and leave nothing behind`, async (t) => {
      let asked = 0;
      const delay = () => (asked++ * 7) % 5;
      const model = tinyModel({ config, backend: createCpuWithSlots({ poison: true, blas, delay }) });
      const before = model.backend.memory();
      const property = fc.asyncProperty(
        fc.array(group, { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 6 }),
        fc.nat(20),
        fc.constantFrom(1, 2, 5, 16, 8192),
        fc.constantFrom(1, 3, 64),
        async (groups, pageSize, spare, maxBatchTokens, maxBatch) => {
          const pages = Math.ceil((Math.max(...groups.map(longest)) + spare) / pageSize);
          const sampler = samplerOf(model, pages, pageSize, { maxBatchTokens, maxBatch, drawsOn });
          const together = await Promise.all(groups.map((group, task) => gather(sampler, group, task)));
          t.is(sampler.cache.freePages, pages);
          t.is(sampler.cache.pagesPromised, 0);
          t.deepEqual([...sampler.cache.sequences], []);
          sampler.cache.dispose();
          const { bytes, buffers } = model.backend.memory();
          t.deepEqual([bytes, buffers], [before.bytes, before.buffers]);

          for (const [task, group] of groups.entries()) {
            for (const [sample, turns] of group.members.entries()) {
              const roomy = samplerOf(model, 256, 1, { drawsOn: "host" });
              const alone = { group, turns, place: [task, sample] as const, alone: true };
              checkSame(t, together[task][sample], await converse(roomy, roomy.cache.open(), alone), turns);
              roomy.cache.dispose();
            }
            await checkScores(
              t,
              model,
              group,
              together[task].flatMap((record) => [record, ...record.forks]),
            );
          }
        },
      );
      await fc.assert(property, { numRuns: 40 });
    });
  }
}
