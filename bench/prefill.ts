/*
 * Prompts into a KV cache: forward passes of new tokens over paged keys and values, without logits; also a message that goes on
 * from a cached past. FLOPs are 2 a parameter of the layers and 2 · layers · heads · headDim a visible key (causal: half a
 * prompt on average), a token.
 *
 *     npm run bench -- prefill [--model 0.5b|1.5b|3b|7b] [--tokens N] [--repeats N] [--device cpu --model tiny]
 *
 * `--tokens` (default 8,192) are those of one pass, as the sampler's budget has it.
 */
import { Arena, noGrad } from "../lib/index.js";
import { type CachedSequence, countParameters, KvCache, pack, Qwen } from "../models/index.js";
import { openBench, printRows, type Row, randomParameters, time, tokenIds } from "./gpu.js";

const PAGE = 64;

const bench = await openBench({ tokens: 8192 });
const { backend, cuda, config, tokens } = bench;
const dtype = cuda ? "bf16" : "f32";
const parameters = randomParameters(backend, config, dtype);
const model = new Qwen(config, parameters);
const { layers, heads, headDim, vocabSize, hiddenSize, tieWordEmbeddings } = config;
const ofLayers = countParameters(parameters) - (tieWordEmbeddings ? 1 : 2) * vocabSize * hiddenSize;

/** New tokens of sequences, which join what the cache has of them. */
function pass(cache: KvCache, sequences: readonly CachedSequence[], news: number, seed: number): void {
  const starts = sequences.map(({ length }) => length);
  const ids = sequences.map((_, s) => tokenIds(news, vocabSize, seed + s));
  using arena = new Arena();
  arena.run(() =>
    noGrad(() => {
      const counts = sequences.map(() => news);
      model.forwardCached(pack(ids, backend, starts), cache.extend(sequences, counts));
    }),
  );
}

/** Passes of `count` sequences by `news` new tokens, each behind the same `past` cached ones. */
function measure(count: number, news: number, past = 0): Row {
  const pages = count * Math.ceil((past + news) / PAGE);
  const cache = new KvCache(config, { backend, dtype, pages, pageSize: PAGE });
  const bases = Array.from({ length: count }, () => cache.open());
  if (past > 0) pass(cache, bases, past, 1);
  let seed = 0;
  const { ms, hostMs } = time(bench, () => {
    const sequences = bases.map((base) => cache.fork(base));
    pass(cache, sequences, news, (seed += 1000));
    for (const sequence of sequences) cache.close(sequence);
  });
  cache.dispose();
  const flops = count * news * (2 * ofLayers + 4 * layers * heads * headDim * (past + news / 2));
  const rate = Math.round((1000 * count * news) / ms).toLocaleString("en-US");
  const label = `${count} × ${news} new tokens${past > 0 ? ` behind ${past}` : ""}`;
  return { label, ms, flops, note: `${rate} tok/s; host ${hostMs.toFixed(1)} ms` };
}

const rows = [1, 4, 16].map((count) => measure(count, Math.floor(tokens / count)));
rows.push(measure(32, Math.floor(tokens / 32), 4 * Math.floor(tokens / 32)));
printRows(rows, bench.roof);
backend.close();
