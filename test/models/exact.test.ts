/*
 * The log-prob that decoding writes when it draws a token has the bits that scoring and training compute for the same
 * weights, on cpu, with the BLAS that is found and without one.
 */
import test from "ava";
import fc from "fast-check";
import { createCpu, type DType, findBlas, randomStream } from "../../lib/index.js";
import { KvCache, type Qwen, Sampler, score } from "../../models/index.js";
import { forwardRows } from "../../rl/learner.js";
import { tinyConfig, tinyModel, tinyQwen2 } from "./tiny.js";

const shapes = {
  "64 wide, longer than a block of keys": {
    ...tinyQwen2,
    hiddenSize: 64,
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    maxPositions: 700,
  },
  "odd sizes": {
    ...tinyConfig,
    hiddenSize: 36,
    intermediateSize: 50,
    heads: 3,
    kvHeads: 3,
    headDim: 12,
    maxPositions: 700,
  },
};

const request = fc.record({
  prompt: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 230, max: 330 })),
  draw: fc.integer({ min: 1, max: 30 }),
});

async function draw(
  model: Qwen,
  requests: readonly { prompt: number; draw: number }[],
  temperature: number,
  maxBatchTokens: number,
) {
  const cache = new KvCache(model.config, { backend: model.backend, dtype: model.dtype, pages: 400, pageSize: 16 });
  const sampler = new Sampler(model, cache, { seed: 3, maxBatchTokens });
  const rows = await Promise.all(
    requests.map(async ({ prompt, draw }, task) => {
      const random = randomStream(task, prompt);
      const tokens = Array.from({ length: prompt }, () => random.int(model.config.vocabSize));
      const { ids, logprobs } = await sampler.generate({
        ...{ sequence: cache.open(), tokens, maxTokens: draw, stopIds: new Set<number>(), temperature },
        site: { step: 0, task, sample: 0, turn: 0 },
      });
      return { tokens: [...tokens, ...ids], logprobs, turns: [{ start: prompt, end: prompt + ids.length }] };
    }),
  );
  cache.dispose();
  return rows;
}

for (const blas of [findBlas(), findBlas("none")]) {
  for (const [name, config] of Object.entries(shapes)) {
    for (const dtype of ["f32", "bf16"] satisfies DType[]) {
      test(`${blas.description}, ${dtype}, ${name}: drawn, scored and trained on, to the bit`, async (t) => {
        const model = tinyModel({ config, dtype, backend: createCpu({ poison: true, blas }) });
        const property = fc.asyncProperty(
          fc.array(request, { minLength: 1, maxLength: 9 }),
          fc.constantFrom(1, 0.7, 1.3),
          fc.constantFrom(3, 61, 300, 8192),
          fc.constantFrom(1, 500, 8192),
          async (requests, temperature, chunk, batchTokens) => {
            const rows = await draw(model, requests, temperature, chunk);
            const tokens = rows.map((row) => row.tokens);
            const { logprobs } = await score(model, tokens, { temperature, batchTokens });
            const outputs = await forwardRows(model, rows, { temperature, microBatchTokens: batchTokens });
            rows.forEach((row, i) => {
              const [{ start, end }] = row.turns;
              t.deepEqual(row.logprobs, [...logprobs[i].slice(start - 1, end - 1)]);
              t.deepEqual(row.logprobs, Array.from(outputs[i].logprobs).slice(start, end));
            });
          },
        );
        await fc.assert(property, { numRuns: 4 });
      });
    }
  }
}
