/*
 * Conversations that share a GPU: each draws what it draws alone, and the log-probs have the bits of the trainer's forward.
 */
import { randomStream } from "../../lib/index.js";
import { KvCache, type Qwen, type QwenConfig, Sampler } from "../../models/index.js";
import { forwardRows } from "../../rl/learner.js";
import { cudaTest, openCuda } from "../lib/backend/cuda/support.js";
import { tinyModel, tinyQwen2 } from "./tiny.js";

const config: QwenConfig = {
  ...tinyQwen2,
  ...{ vocabSize: 1000, hiddenSize: 512, intermediateSize: 1408, layers: 3, heads: 8, kvHeads: 2, headDim: 64 },
  ...{ maxPositions: 4096, initializerRange: 0.05, dtype: "bfloat16" },
};
const PAGE = 16;
const TURNS = 3;

const text = (seed: number, length: number): number[] => {
  const random = randomStream(seed, 1);
  return Array.from({ length }, () => random.int(config.vocabSize));
};

interface Turn {
  readonly start: number;
  readonly end: number;
}

interface Record {
  readonly tokens: number[];
  readonly logprobs: number[];
  readonly turns: Turn[];
  readonly stops: string[];
}

/** Turns of mixed lengths; every fifth conversation is cut short in its second turn, and goes on. */
async function converse(sampler: Sampler, task: number, temperature: number): Promise<Record> {
  const { cache } = sampler;
  const sequence = cache.open();
  const record: Record = { tokens: [], logprobs: [], turns: [], stops: [] };
  const { tokens, logprobs, turns, stops } = record;
  for (let turn = 0; turn < TURNS; turn++) {
    tokens.push(...text(100 * task + turn, turn === 0 ? 1 + ((task * 211) % 700) : 3 + ((task * turn) % 40)));
    const controller = new AbortController();
    const cut = task % 5 === 4 && turn === 1 ? 4 : Number.POSITIVE_INFINITY;
    let drawn = 0;
    const completion = await sampler.generate({
      ...{ sequence, tokens: [...tokens], maxTokens: 5 + ((task * 13 + turn * 7) % 50), temperature },
      ...{ stopIds: new Set(text(task, 3)), site: { step: 4, task, sample: 1, turn }, signal: controller.signal },
      onToken: () => void (++drawn === cut && controller.abort()),
    });
    stops.push(completion.stop);
    turns.push({ start: tokens.length, end: tokens.length + completion.ids.length });
    logprobs.push(...completion.logprobs);
    tokens.push(...completion.ids);
    await new Promise((resolve) => setTimeout(resolve, (task * turn) % 7));
  }
  cache.close(sequence);
  return record;
}

async function together(model: Qwen, tasks: readonly number[], temperature: number, room = 1): Promise<Record[]> {
  const pages = Math.ceil((room * tasks.length * 1100) / PAGE) + 70;
  const cache = new KvCache(model.config, { backend: model.backend, dtype: model.dtype, pages, pageSize: PAGE });
  const sampler = new Sampler(model, cache, { seed: 9, maxBatchTokens: 1024, drawsOn: "device" });
  const records = await Promise.all(tasks.map((task) => converse(sampler, task, temperature)));
  if (cache.freePages !== pages) throw new Error(`${pages - cache.freePages} pages were not given back`);
  cache.dispose();
  return records;
}

for (const [name, changes] of [
  ["Qwen2", {}],
  ["Qwen3", { architecture: "qwen3", qkvBias: false, qkNorm: true, tieWordEmbeddings: false }],
] as const) {
  cudaTest(`${name}: the log-probs of conversations that share the GPU have the trainer's bits`, async (t) => {
    const model = tinyModel({ config: { ...config, ...changes }, backend: await openCuda(), dtype: "bf16" });
    const { backend } = model;
    // Work lists are kept of the last few passes: the same passes leave the same ones.
    const settled = async () => {
      for (let i = 0; i < 2; i++) await together(model, [1], 1);
      const { bytes, buffers } = backend.memory();
      return [bytes, buffers];
    };
    const before = await settled();
    const tasks = Array.from({ length: 40 }, (_, task) => task);
    for (const [temperature, room] of [
      [1, 1],
      [0.7, 0.3],
    ]) {
      const records = await together(model, tasks, temperature, room);
      t.true(records.some(({ stops }) => stops.includes("cancelled")));
      const outputs = await forwardRows(model, records, { temperature, microBatchTokens: 4096 });
      records.forEach(({ turns, logprobs }, i) => {
        const expected = turns.flatMap(({ start, end }) => Array.from(outputs[i].logprobs).slice(start, end));
        t.deepEqual(logprobs, expected, `conversation ${i}, temperature ${temperature}`);
      });
      // How far a cancelled turn gets is the clock's affair: only the others are the same alone.
      for (const task of [0, 1, 7, 38]) {
        t.deepEqual((await together(model, [task], temperature))[0], records[task], `conversation ${task}`);
      }
    }
    t.deepEqual(await settled(), before);
  });
}
