/*
 * Causal attention over packed sequences, forward and backward, beside PyTorch's FlashAttention and cuDNN kernels. Counted
 * are the operations under the diagonal: 2 products forward, 5 backward.
 *
 *     npm run bench -- attention [--model 0.5b|1.5b|3b|7b] [--tokens N] [--repeats N] [--no-peers]
 */
import { Arena, noGrad, zeros } from "../lib/index.js";
import { fresh } from "../lib/tensor.js";
import { openBench, printRows, type Row, runPeer, tile, time, weightSequence } from "./gpu.js";

const bench = await openBench({ tokens: 16_384 });
const { backend, config, tokens } = bench;
const { heads, kvHeads, headDim } = config;
const { attention, attentionBackward } = backend.fused;
if (!attention || !attentionBackward) throw new Error(`${backend.name} has no attention kernel`);

const lengths = [512, 1024, 2048, 4096, 5120, 8192, 16_384].filter((length) => length <= tokens);
const batches = lengths.map((length): [name: string, batch: number[]] => {
  const count = Math.floor(tokens / length);
  return [`${count} × ${length}`, new Array<number>(count).fill(length)];
});
// As conversations are: no two of one length.
const uneven: number[] = [];
for (let left = tokens, i = 0; left > 0; i++) {
  const length = Math.min(left, 100 + ((i * 1237) % 4000));
  uneven.push(length);
  left -= length;
}
batches.push([`${uneven.length} uneven to ${Math.max(...uneven)}`, uneven]);

const sequence = weightSequence(backend, "bf16", 1);
const rows: Row[] = [];
for (const [name, batch] of batches) {
  using arena = new Arena();
  const total = batch.reduce((a, b) => a + b, 0);
  const offsets = Int32Array.from([0, ...batch.map((_, i) => batch.slice(0, i + 1).reduce((a, b) => a + b, 0))]);
  const make = (width: number, salt: number) => {
    const x = zeros([total, width * headDim], { backend, dtype: "bf16" });
    tile(x, sequence, salt);
    return x;
  };
  const layout = { heads, kvHeads, headDim };
  const [x, dy] = arena.run(() => [make(heads + 2 * kvHeads, 0), make(heads, 17)]);
  const products = batch.reduce((sum, length) => sum + 2 * heads * headDim * ((length * (length + 1)) / 2), 0);
  const out = arena.run(() => attention(x, offsets, layout));
  const [y, lse] = arena.run(() => [fresh(out.y, dy.shape), fresh(out.lse, [total, heads])]);
  const once = (fn: () => unknown) => () => {
    using inner = new Arena();
    inner.run(() => noGrad(fn));
  };
  const forward = time(
    bench,
    once(() => {
      const again = attention(x, offsets, layout);
      fresh(again.y, [total, heads * headDim]);
      fresh(again.lse, [total, heads]);
    }),
  );
  const backward = time(
    bench,
    once(() => fresh(attentionBackward(dy, x, y, lse, offsets, layout), x.shape)),
  );
  const label = `${name}, ${heads}:${kvHeads} heads of ${headDim}`;
  rows.push({ label: `${label}, forward`, ms: forward.ms, flops: 2 * products });
  rows.push({ label: `${label}, backward, deterministic`, ms: backward.ms, flops: 5 * products });
}
printRows(rows, bench.roof);
sequence.dispose();
backend.close();
if (bench.peers) {
  const spec = { heads, kvHeads, headDim, lengths, tokens, repeats: bench.repeats };
  await runPeer("attention", spec, bench.roof);
}
