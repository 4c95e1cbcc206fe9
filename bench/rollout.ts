/*
 * Multi-turn conversations as in a rollout: groups of samples that open alike, each with a scripted user who takes 0.2 to
 * 2 s to answer; random weights, turns of random lengths. First with continuous batching, then with a batch that starts
 * only when all its members are ready. Before both a run whose users answer in a twentieth of the time, in which kernels are
 * compiled and algorithms chosen.
 *
 *     npm run bench -- rollout [--model tiny|0.5b|1.5b|3b|7b] [--device cuda|cpu] [--prompts 16] [--samples 8] [--turns 4]
 *         [--prompt-tokens 256] [--turn-tokens 64] [--reply-tokens 32] [--page-size 64]
 *         [--draws-on device|host]
 *
 * `--turn-tokens` is the mean: a turn has half to one and a half of it. The engine is at work while at least one request is
 * under way. `--draws-on` is by default the device where it can. The device's shares are of its own time, from the begin of
 * each step to its end: steps in which tokens are drawn, and passes over prompts alone; the rest of the time it waits.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type RandomStream, randomStream } from "../lib/index.js";
import { type CachedSequence, type DrawsOn, KvCache, Qwen, Sampler } from "../models/index.js";
import { openBench, randomParameters, tokenIds } from "./gpu.js";
import { stepClock } from "./stepClock.js";

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

interface Manner {
  readonly gate: Gate;
  /** Factor of the time that users take. */
  readonly patience: number;
}

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
  { gate, patience }: Manner,
): Promise<void> {
  const random: RandomStream = randomStream(7, task, sample);
  const tokens = [...prompt];
  for (let turn = 0; turn < turns; turn++) {
    const maxTokens = Math.max(1, Math.round(turnTokens * (0.5 + random.uniform())));
    await gate();
    const request = { sequence, tokens, maxTokens, stopIds: new Set<number>(), temperature: 1 };
    const { ids } = await clock.during(sampler.generate({ ...request, site: { step: 0, task, sample, turn } }));
    tokens.push(...ids, ...tokenIds(replyTokens, config.vocabSize, task * 1000 + turn));
    if (turn < turns - 1) await sleep(patience * (200 + 1800 * random.uniform()));
  }
  sampler.cache.close(sequence);
}

const steps = stepClock(model, bench.cuda);

async function run(label: string, manner: Manner): Promise<void> {
  const cache = new KvCache(config, { backend, pages, pageSize, dtype });
  const sampler = new Sampler(model, cache, { seed: 1, drawsOn: flags["draws-on"] as DrawsOn | undefined });
  const clock = new WorkClock();
  const started = performance.now();
  const groups = Array.from({ length: prompts }, async (_, task) => {
    const prompt = tokenIds(promptTokens, config.vocabSize, task);
    const opening = cache.open();
    await clock.during(sampler.prefill({ sequence: opening, tokens: [...prompt.subarray(0, -1)] }));
    const members = Array.from({ length: samples }, (_, sample) =>
      converse(sampler, cache.fork(opening), prompt, [task, sample], clock, manner),
    );
    cache.close(opening);
    await Promise.all(members);
  });
  await Promise.all(groups);
  const seconds = (performance.now() - started) / 1000;
  const { decoding, prompts: reading } = steps();
  const rate = Math.round(sampler.drawn / seconds).toLocaleString("en-US");
  const share = (part: number) => `${((100 * part) / seconds).toFixed(0)} %`;
  console.log(
    `${label.padEnd(30)}${rate.padStart(8)} tok/s  ${seconds.toFixed(1).padStart(6)} s; engine at work ${share(clock.seconds)}; ` +
      `device decodes ${share(decoding)}, prompts ${share(reading)}`,
  );
  cache.dispose();
}

const open = async () => {};
await run("warm-up", { gate: open, patience: 0.05 });
await run("continuous batching", { gate: open, patience: 1 });
await run("batches of all conversations", { gate: barrier(conversations), patience: 1 });
backend.close();
