/*
 * Matrix products of one training step: forward (rounded to bf16), gradient of the input (bf16) and of the weight (f32),
 * for every matrix of a model, beside torch.matmul.
 *
 *     npm run bench -- gemm [--model 0.5b|1.5b|3b|7b] [--tokens N] [--repeats N] [--no-peers]
 */
import { Arena, linear, noGrad, zeros } from "../lib/index.js";
import { openBench, printRows, type Row, runPeer, tile, time, weightSequence } from "./gpu.js";

const bench = await openBench({ tokens: 5120 });
const { backend, config, tokens } = bench;
const { hiddenSize: d, intermediateSize, heads, kvHeads, headDim, layers, vocabSize } = config;
const shapes: readonly (readonly [name: string, n: number, k: number, times: number])[] = [
  ["qkv", (heads + 2 * kvHeads) * headDim, d, layers],
  ["o", d, heads * headDim, layers],
  ["gate, up", 2 * intermediateSize, d, layers],
  ["down", d, intermediateSize, layers],
  ["head", vocabSize, d, 1],
];

const sequence = weightSequence(backend, "bf16");
const rows: Row[] = [];
let [whole, work] = [0, 0];
for (const [name, n, k, times] of shapes) {
  using arena = new Arena();
  // The head never has all logits at once.
  const m = name === "head" ? Math.min(tokens, 4096) : tokens;
  const make = (shape: number[]) => {
    const x = zeros(shape, { backend, dtype: "bf16" });
    tile(x, sequence);
    return x;
  };
  const [x, w, dy] = arena.run(() => [make([m, k]), make([n, k]), make([m, n])]);
  const wide = backend.fused.matmulWide;
  const into = arena.run(() => zeros([n, k], { backend }));
  const spec = { batch: 1, m: n, n: k, k: m, transposeA: true, transposeB: false };
  const inArena = (fn: () => unknown) => () => {
    using inner = new Arena();
    inner.run(() => noGrad(fn));
  };
  const kinds: Record<string, () => unknown> = {
    forward: () => linear(x, w),
    "input gradient": () => dy.matmul(w),
    ...(wide && { "weight gradient, added in f32": () => wide(dy, x, spec, into) }),
  };
  for (const [kind, fn] of Object.entries(kinds)) {
    const { ms } = time(bench, inArena(fn));
    const flops = 2 * m * n * k;
    rows.push({ label: `${name} ${m}×${n}×${k}, ${kind}`, ms, flops });
    const share = name === "head" ? tokens / m : times;
    whole += ms * share;
    work += flops * share;
  }
}
printRows([...rows, { label: `all of a step, ${tokens} tokens`, ms: whole, flops: work }], bench.roof);
sequence.dispose();
backend.close();
if (bench.peers) await runPeer("gemm", { shapes, tokens, repeats: bench.repeats }, bench.roof);
