import test, { type ExecutionContext } from "ava";
import { Arena, type Backend, noGrad, noiseKey, sampleGumbel, seedKey, tensor } from "../../lib/index.js";
import { initializeParameters, KvCache, pack, Qwen, type QwenConfig, SlotDecoder } from "../../models/index.js";
import { cudaTest, openCuda } from "../lib/backend/cuda/support.js";
import { createCpuWithSlots } from "./slotKernels.js";
import { tinyModel, tinyQwen2 } from "./tiny.js";

const config: QwenConfig = {
  ...tinyQwen2,
  ...{ vocabSize: 1000, hiddenSize: 512, intermediateSize: 1408, layers: 3, heads: 8, kvHeads: 1, headDim: 128 },
  ...{ maxPositions: 4096, initializerRange: 0.05, dtype: "bfloat16" },
};
const KEY = seedKey(77);
const PAGE = 16;

function makeModel(backend: Backend, changes: Partial<QwenConfig> = {}): Qwen {
  const changed = { ...config, ...changes };
  return new Qwen(changed, initializeParameters(changed, { backend, seed: 3, dtype: "bf16" }));
}

interface Job {
  readonly task: number;
  readonly prompt: readonly number[];
  readonly draw: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
}

interface Drawn {
  readonly ids: number[];
  readonly logprobs: number[];
}

const promptOf = (task: number, length: number) =>
  Array.from({ length }, (_, i) => (task * 7919 + i * i * 31 + 17 * i) % config.vocabSize);

/** Decodes jobs together, each from its prompt; the last token of a prompt is the first input. */
async function decode(model: Qwen, jobs: readonly Job[]): Promise<Drawn[]> {
  const { backend } = model;
  let slots = 1;
  while (slots < jobs.length) slots *= 2;
  const pages = jobs.reduce((sum, { prompt, draw }) => sum + Math.ceil((prompt.length + draw) / PAGE), 0);
  const cache = new KvCache(model.config, { backend, dtype: "bf16", pages, pageSize: PAGE });
  const decoder = new SlotDecoder(model, cache, { slots, key: KEY });
  for (const [slot, { task, prompt, draw, temperature = 1, topP = 1, topK = 0 }] of jobs.entries()) {
    const sequence = cache.open();
    using arena = new Arena();
    arena.run(() =>
      noGrad(() => {
        const past = prompt.slice(0, -1);
        if (past.length > 0) model.forwardCached(pack([past], backend), cache.extend([sequence], [past.length]));
        cache.extend([sequence], [draw + 1]);
      }),
    );
    decoder.start(slot, {
      ...{ token: prompt.at(-1)!, position: prompt.length - 1, pages: sequence.pages },
      ...{ temperature, topP, minP: 0, topK, stopIds: [], maxTokens: draw },
      site: { step: 5, task, sample: 2, turn: 1 },
    });
  }
  // All steps are enqueued before the first result is looked at.
  const most = Math.max(...jobs.map(({ draw }) => draw));
  const results = await Promise.all(Array.from({ length: most }, () => decoder.step(jobs.length)));
  const drawn = jobs.map((): Drawn => ({ ids: [], logprobs: [] }));
  for (const { ids, logprobs } of results) {
    for (const [slot, { ids: of, logprobs: said }] of drawn.entries()) {
      if (ids[slot] < 0) continue;
      of.push(ids[slot]);
      said.push(logprobs[slot]);
    }
  }
  decoder.dispose();
  cache.dispose();
  return drawn;
}

/** What the training forward says of the tokens that were drawn, in f32. */
async function trained(
  model: Qwen,
  jobs: readonly Job[],
  drawn: readonly Drawn[],
  temperature = 1,
): Promise<number[][]> {
  const { backend } = model;
  using arena = new Arena();
  const sequences = jobs.map(({ prompt }, s) => [...prompt, ...drawn[s].ids]);
  const { logprobs } = arena.run(() =>
    noGrad(() => {
      const hidden = model.forward(pack(sequences, backend));
      const targets = sequences.flatMap((sequence) => [...sequence.slice(1), 0]);
      return model.logprobs(hidden, tensor(targets, { backend, dtype: "i32" }), temperature);
    }),
  );
  const values = await logprobs.data();
  let end = 0;
  return sequences.map((sequence, s) => {
    end += sequence.length;
    return Array.from(values.slice(end - 1 - drawn[s].ids.length, end - 1));
  });
}

function sameBits(t: ExecutionContext, actual: readonly number[], expected: readonly number[], label: string): void {
  const differing = actual.filter((value, i) => !Object.is(value, expected[i])).length;
  t.is(actual.length, expected.length, label);
  const worst = Math.max(...actual.map((value, i) => Math.abs(value - expected[i])));
  t.is(differing, 0, `${label}: ${differing} of ${actual.length} differ, by ${worst} at most`);
}

const jobsOf = (count: number, draw = 24): Job[] =>
  Array.from({ length: count }, (_, task) => ({
    task,
    draw: draw + (task % 5),
    prompt: promptOf(task, 1 + ((task * 211) % 700)),
  }));

for (const [name, changes] of [
  ["8:1", {}],
  ["2:1, 64 dimensions", { heads: 8, kvHeads: 4, headDim: 64 }],
  ["1:1", { heads: 4, kvHeads: 4 }],
  ["7:1", { heads: 7, kvHeads: 1, hiddenSize: 896 }],
] as const) {
  cudaTest(`decoding, ${name}: log-probabilities have the bits of the training forward, in every batch`, async (t) => {
    const model = makeModel(await openCuda(), changes);
    for (const count of [1, 3, 8, 9, 33]) {
      const jobs = jobsOf(count);
      const drawn = await decode(model, jobs);
      jobs.forEach(({ draw }, s) => {
        t.is(drawn[s].ids.length, draw);
      });
      const expected = await trained(model, jobs, drawn);
      sameBits(
        t,
        drawn.flatMap(({ logprobs }) => logprobs),
        expected.flat(),
        `${count} sequences`,
      );
    }
  });
}

cudaTest("decoding: what a sequence draws depends on itself alone", async (t) => {
  const model = makeModel(await openCuda());
  const jobs = jobsOf(20);
  const together = await decode(model, jobs);
  for (const s of [0, 7, 19]) t.deepEqual((await decode(model, [jobs[s]]))[0], together[s], `sequence ${s}`);
});

cudaTest("decoding: at other temperatures, greedy, and with one token kept", async (t) => {
  const model = makeModel(await openCuda());
  const [base] = jobsOf(1);
  const cold = { ...base, temperature: 0.7 };
  const drawn = await decode(model, [cold]);
  sameBits(t, drawn[0].logprobs, (await trained(model, [cold], drawn, 0.7))[0], "temperature 0.7");
  const [greedy, single, narrow] = await decode(model, [
    { ...base, temperature: 0 },
    { ...base, temperature: 3, topK: 1 },
    { ...base, topP: 1e-6 },
  ]);
  t.deepEqual(single.ids, greedy.ids);
  t.deepEqual(narrow.ids, greedy.ids);
});

cudaTest("decoding: the host draws the same tokens from the same logits", async (t) => {
  const model = makeModel(await openCuda());
  const { backend } = model;
  const [job] = jobsOf(1, 40);
  const [{ ids }] = await decode(model, [job]);
  const sequence = [...job.prompt, ...ids];
  using arena = new Arena();
  const logits = arena.run(() => noGrad(() => model.logits(model.forward(pack([sequence], backend)))));
  const values = (await logits.data()) as Float32Array;
  const expected = ids.map((_, i) => {
    const at = job.prompt.length - 1 + i;
    const key = noiseKey(KEY, { step: 5, task: job.task, sample: 2, turn: 1, position: at + 1 });
    return sampleGumbel(values, at * config.vocabSize, config.vocabSize, 1, key);
  });
  t.deepEqual(ids, expected);
});

test("what a slot cannot hold is refused: stop ids, pages, tokens beyond the pages, and names of noise", (t) => {
  const backend = createCpuWithSlots();
  const model = tinyModel({ backend });
  const cache = new KvCache(model.config, { backend, pages: 8, pageSize: 4 });
  const decoder = new SlotDecoder(model, cache, { slots: 2, key: KEY });
  const start = {
    ...{ token: 5, position: 5, pages: [0, 1], temperature: 1, topP: 1, minP: 0, topK: 0, stopIds: [2], maxTokens: 3 },
    site: { step: 0, task: 0, sample: 0, turn: 0 },
  };
  t.notThrows(() => decoder.start(0, start));
  for (const [change, says] of [
    [{ stopIds: [1, 2, 3, 4, 5, 6, 7, 8, 9] }, /9 stop ids .*at most 8/],
    [{ pages: [0, 1, 2, 3, 4, 5, 6, 7, 0] }, /9 pages/],
    [{ maxTokens: 4 }, /4 tokens from position 5 on, and pages for 8/],
    [{ maxTokens: 0 }, /0 tokens/],
    [{ site: { ...start.site, turn: 65536 } }, /turn 65536/],
  ] as const) {
    t.throws(() => decoder.start(0, { ...start, ...change }), { message: says });
  }
});
