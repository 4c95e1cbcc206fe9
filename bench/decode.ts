/*
 * Decoding with a Qwen2.5-shaped model: every sequence draws a token a step, with top-p and log-probability on the device, from a
 * context that grows. The roof is the time to read the weights and the cached keys and values once. The peer does the same in
 * PyTorch, with a CUDA graph and a static cache.
 *
 *     npm run bench -- decode [--model 0.5b|1.5b|3b|7b] [--tokens CONTEXT] [--batches 1,64,256] [--repeats STEPS] [--no-peers]
 *         [--compile] [--limit 120]
 *
 * `--compile` runs the peer under torch.compile too; `--limit` is the most seconds of each of its variants.
 */
import { Arena, noGrad, seedKey } from "../lib/index.js";
import { countParameters, KvCache, pack, Qwen, SlotDecoder } from "../models/index.js";
import { median, openBench, printRows, type Row, randomParameters, runPeer, SALT, tokenIds } from "./gpu.js";

const PAGE = 64;

const bench = await openBench({ tokens: 512 }, ["batches=", "compile", "limit="]);
const { backend, cuda, config, tokens: context, flags } = bench;
if (!cuda) throw new Error("bench decode: needs --device cuda");
const steps = Math.max(16, bench.repeats);
const model = new Qwen(config, randomParameters(backend, config));
const weightBytes = 2 * countParameters(model.parameters);
const rows: Row[] = [];
const batches = String(flags.batches ?? "1,64,256")
  .split(",")
  .map(Number);
for (const batch of batches) {
  const each = Math.ceil((context + 3 * steps) / PAGE);
  const cache = new KvCache(config, { backend, dtype: "bf16", pages: batch * each, pageSize: PAGE });
  const decoder = new SlotDecoder(model, cache, { slots: batch, key: seedKey(1) });
  for (let slot = 0; slot < batch; slot++) {
    const sequence = cache.open();
    using arena = new Arena();
    arena.run(() =>
      noGrad(() => {
        const ids = tokenIds(context, config.vocabSize, slot);
        model.forwardCached(pack([ids], backend), cache.extend([sequence], [context]));
        while (sequence.pages.length < each) cache.extend([sequence], [PAGE]);
      }),
    );
    decoder.start(slot, {
      ...{
        token: tokenIds(1, config.vocabSize, 999 + slot)[0],
        position: context,
        pages: sequence.pages.slice(0, each),
      },
      ...{ temperature: 1, topP: 0.9, minP: 0, topK: 0, stopIds: [], maxTokens: 2 * steps },
      site: { step: 0, task: slot, sample: 0, turn: 0 },
    });
  }
  for (let i = 0; i < 4; i++) await decoder.step(batch);
  const times: number[] = [];
  let host = 0;
  for (let i = 0; i < 5; i++) {
    const results: Promise<unknown>[] = [];
    const count = Math.floor(steps / 4);
    times.push(
      cuda.device.time(() => {
        const start = performance.now();
        for (let n = 0; n < count; n++) results.push(decoder.step(batch));
        host += (performance.now() - start) / count / 5;
      }) / count,
    );
    await Promise.all(results);
  }
  const ms = median(times);
  const kvBytes = batch * (context + steps) * config.layers * 4 * config.kvHeads * config.headDim;
  rows.push({
    label: `decode, batch ${batch}, context ${context}`,
    ms,
    bytes: weightBytes + kvBytes,
    note: `${Math.round((1000 * batch) / ms).toLocaleString("en-US")} tok/s; host ${host.toFixed(2)} ms a step`,
  });
  decoder.dispose();
  cache.dispose();
}
printRows(rows, bench.roof);
backend.close();

if (bench.peers) {
  const {
    vocabSize: vocab,
    hiddenSize: hidden,
    intermediateSize: intermediate,
    layers,
    heads,
    kvHeads,
    headDim,
  } = config;
  await runPeer(
    "decode",
    {
      ...{ vocab, hidden, intermediate, layers, heads, kvHeads, headDim, tied: config.tieWordEmbeddings, salt: SALT },
      ...{ context, batches, steps, compile: flags.compile === true, limit: Number(flags.limit ?? 120) },
    },
    bench.roof,
  );
}
