/*
 * Multi-turn conversations as in a rollout: groups of samples that open alike, each with a scripted user who takes 0.2 to
 * 2 s to answer; random weights, turns of random lengths. First with continuous batching, then with a batch that starts
 * only when all its members are ready.
 *
 *     npm run bench -- rollout [--model tiny|0.5b|1.5b|3b|7b] [--device cuda|cpu] [--prompts 16] [--samples 8] [--turns 4]
 *         [--prompt-tokens 256] [--turn-tokens 64] [--reply-tokens 32] [--page-size 64]
 *         [--draws-on device]
 *
 * `--turn-tokens` is the mean: a turn has half to one and a half of it. The engine is at work while at least one request
 * is under way.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type RandomStream, randomStream } from "../lib/index.js";
import { type CachedSequence, type DrawsOn, KvCache, Qwen, Sampler } from "../models/index.js";
import { openBench, randomParameters, tokenIds } from "./gpu.js";

const numbers = {
  prompts: 16,
  samples: 8,
  turns: 4,
  "prompt-tokens": 256,
  "turn-tokens": 64,
  "reply-tokens": 32,
  "page-size": 64,
};
const bench = await openBench(
  { tokens: 0 },
  [...Object.keys(numbers), "draws-on"].map((name) => `${name}=`),
);
const { backend, config, flags } = bench;
const flag = (name: keyof typeof numbers) => Number(flags[name] ?? numbers[name]);
const [prompts, samples, turns] = [flag("prompts"), flag("samples"), flag("turns")];
const [promptTokens, turnTokens, replyTokens] = [flag("prompt-tokens"), flag("turn-tokens"), flag("reply-tokens")];
const pageSize = flag("page-size");
const conversations = prompts * samples;

const dtype = bench.cuda ? "bf16" : "f32";
const model = new Qwen(config, randomParameters(backend, config, dtype));
const longest = promptTokens + turns * (Math.ceil(1.5 * turnTokens) + replyTokens);
const pages = conversations * Math.ceil(longest / pageSize);
console.log(
  `Qwen2.5-${bench.model} shape, ${dtype}, ${prompts} × ${samples} conversations of ${turns} turns of about ${turnTokens} tokens`,
);

/** Waits until all conversations have come so far. */
type Gate = () => Promise<void>;

function barrier(members: number): Gate {
  let waiting: (() => void)[] = [];
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      if (waiting.length < members) return;
      for (const release of waiting) release();
      waiting = [];
    });
}

/** Counts the time in which the engine has something to do. */
class WorkClock {
  seconds = 0;
  #requests = 0;
  #since = 0;

  async during<T>(work: Promise<T>): Promise<T> {
    if (this.#requests++ === 0) this.#since = performance.now();
    try {
      return await work;
    } finally {
      if (--this.#requests === 0) this.seconds += (performance.now() - this.#since) / 1000;
    }
  }
}

async function converse(
  sampler: Sampler,
  sequence: CachedSequence,
  prompt: Int32Array,
  [task, sample]: readonly [number, number],
  clock: WorkClock,
  gate: Gate,
): Promise<void> {
  const random: RandomStream = randomStream(7, task, sample);
  const tokens = [...prompt];
  for (let turn = 0; turn < turns; turn++) {
    const maxTokens = Math.max(1, Math.round(turnTokens * (0.5 + random.uniform())));
    await gate();
    const request = { sequence, tokens, maxTokens, stopIds: new Set<number>(), temperature: 1 };
    const { ids } = await clock.during(sampler.generate({ ...request, site: { step: 0, task, sample, turn } }));
    tokens.push(...ids, ...tokenIds(replyTokens, config.vocabSize, task * 1000 + turn));
    await sleep(200 + 1800 * random.uniform());
  }
  sampler.cache.close(sequence);
}

async function run(label: string, gate: Gate): Promise<void> {
  const cache = new KvCache(config, { backend, pages, pageSize, dtype });
  const sampler = new Sampler(model, cache, { seed: 1, drawsOn: flags["draws-on"] as DrawsOn | undefined });
  const clock = new WorkClock();
  const started = performance.now();
  const groups = Array.from({ length: prompts }, async (_, task) => {
    const prompt = tokenIds(promptTokens, config.vocabSize, task);
    const opening = cache.open();
    await clock.during(sampler.prefill({ sequence: opening, tokens: [...prompt.subarray(0, -1)] }));
    const members = Array.from({ length: samples }, (_, sample) =>
      converse(sampler, cache.fork(opening), prompt, [task, sample], clock, gate),
    );
    cache.close(opening);
    await Promise.all(members);
  });
  await Promise.all(groups);
  const seconds = (performance.now() - started) / 1000;
  const rate = Math.round(sampler.drawn / seconds).toLocaleString("en-US");
  console.log(
    `${label.padEnd(28)}${rate.padStart(8)} tok/s  ${seconds.toFixed(1).padStart(6)} s, ` +
      `engine at work ${((100 * clock.seconds) / seconds).toFixed(0)} %, ` +
      `${Math.round(sampler.drawn / clock.seconds).toLocaleString("en-US")} tok/s meanwhile`,
  );
  cache.dispose();
}

await run("continuous batching", async () => {});
await run("batches of all conversations", barrier(conversations));
backend.close();
