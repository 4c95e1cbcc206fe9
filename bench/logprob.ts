/*
 * The language-model head with log-probabilities and entropy, forward and backward, beside the bare product and the same in
 * PyTorch. Counted are one product forward and two backward; that backward computes the logits again is not.
 *
 *     npm run bench -- logprob [--model 0.5b|1.5b|3b|7b] [--tokens N] [--repeats N] [--no-peers]
 */
import { Arena, backward, linear, linearLogprob, noGrad, tensor, zeros } from "../lib/index.js";
import { openBench, printRows, type Row, runPeer, tile, time, tokenIds, weightSequence } from "./gpu.js";

const bench = await openBench({ tokens: 16_384 });
const { backend, config, tokens } = bench;
const { hiddenSize: d, vocabSize } = config;
const flops = 2 * tokens * d * vocabSize;

using arena = new Arena();
const { hidden, weight, targets, ones } = arena.run(() => {
  const [hidden, weight] = [
    zeros([tokens, d], { backend, dtype: "bf16" }),
    zeros([vocabSize, d], { backend, dtype: "bf16" }),
  ];
  using unit = weightSequence(backend, "bf16", 1);
  using small = weightSequence(backend, "bf16");
  tile(hidden, unit, 5);
  tile(weight, small);
  const targets = tensor(tokenIds(tokens, vocabSize, 0), { backend, dtype: "i32" });
  return { hidden, weight, targets, ones: zeros([tokens], { backend }).add(1) };
});
hidden.requiresGrad = weight.requiresGrad = true;

const forwardOnce = () => {
  using inner = new Arena();
  inner.run(() => noGrad(() => linearLogprob(hidden, weight, targets)));
};
const bothOnce = () => {
  using inner = new Arena();
  inner.run(() => {
    const { logprobs, entropy } = linearLogprob(hidden, weight, targets);
    backward([logprobs, entropy], [ones, ones]);
  });
};
const product = () => {
  const rows = Math.min(tokens, 2048);
  using inner = new Arena();
  inner.run(() => noGrad(() => linear(hidden.slice(0, 0, rows), weight)));
};
const [bare, forward, both] = [time(bench, product), time(bench, forwardOnce), time(bench, bothOnce)];
const bareMs = (bare.ms * tokens) / Math.min(tokens, 2048);
const label = `${tokens} × ${d} × ${vocabSize}`;
const rows: Row[] = [
  { label: `bare product ${label}`, ms: bareMs, flops },
  { label: `head forward ${label}`, ms: forward.ms, flops, note: share(bareMs / forward.ms) },
  {
    label: `head forward and backward ${label}`,
    ms: both.ms,
    flops: 3 * flops,
    note: `${share((4 * bareMs) / both.ms)} with the logits computed twice`,
  },
];
printRows(rows, bench.roof);
console.log(`peak memory ${(backend.memory().peakBytes / 1e9).toFixed(2)} GB`);
arena.dispose();
hidden.grad?.dispose();
weight.grad?.dispose();
backend.close();
if (bench.peers) await runPeer("logprob", { tokens, d, vocabulary: vocabSize, repeats: bench.repeats }, bench.roof);

function share(ratio: number): string {
  return `${(100 * ratio).toFixed(0)} % of the product`;
}
