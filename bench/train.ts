/*
 * Training steps of a Qwen2.5-shaped model with random bf16 weights: forward, loss and backward into f32 gradients,
 * deterministic, fresh token ids each step; then with gradient norm and AdamW; then forward alone, as in scoring. FLOPs are
 * those of bench/peers/train.py: (6 · parameters + 6 · layers · heads · headDim · length) a token, a third of it for the
 * forward pass; recompute is not counted.
 *
 *     npm run bench -- train [--model 0.5b|1.5b|3b|7b] [--tokens N] [--sequences N] [--recompute] [--repeats N]
 *         [--no-optimizer] [--no-peers] [--compile] [--limit 300] [--device cpu --model tiny]
 *
 * `--tokens` are those of all `--sequences` (default 1) together. `--compile` runs the peer under torch.compile too, `--limit`
 * is the most seconds that it has in all. Loss and gradient norm are compared with the peer's on the same weights and ids.
 */
import { AdamW, Arena, clipScale, gradNorm, noGrad, type Tensor, tensor, zeroGrad } from "../lib/index.js";
import { countParameters, pack, Qwen } from "../models/index.js";
import { openBench, printRows, type Row, randomParameters, runPeer, SALT, time, timeAsync, tokenIds } from "./gpu.js";

const bench = await openBench({ tokens: 5120 }, ["sequences=", "recompute", "no-optimizer", "compile", "limit="]);
const { backend, cuda, config, tokens, flags } = bench;
const sequences = Number(flags.sequences ?? 1);
const length = Math.floor(tokens / sequences);
const scored = sequences * (length - 1);

const parameters = randomParameters(backend, config);
for (const parameter of parameters.values()) parameter.requiresGrad = true;
const model = new Qwen(config, parameters);
model.recompute = flags.recompute === true;
const count = countParameters(parameters);
const { layers, heads, headDim } = config;
const flops = (6 * count + 6 * layers * heads * headDim * length) * sequences * length;
console.log(
  `Qwen2.5-${bench.model} shape, ${(count / 1e9).toFixed(2)} B parameters, ${sequences} × ${length} tokens` +
    `${model.recompute ? ", recompute" : ""}, median of ${bench.repeats}`,
);

/** Mean negative log-likelihood of the next tokens of a step's random sequences. */
function loss(step: number): Tensor {
  const ids = tokenIds(sequences * length, config.vocabSize, step);
  const rows = Array.from({ length: sequences }, (_, s) => ids.subarray(s * length, (s + 1) * length));
  const targets = Int32Array.from(ids, (_, i) => ((i + 1) % length === 0 ? 0 : ids[i + 1]));
  const weight = Float32Array.from(ids, (_, i) => ((i + 1) % length === 0 ? 0 : -1 / scored));
  const hidden = model.forward(pack(rows, backend));
  const { logprobs } = model.logprobs(hidden, tensor(targets, { backend, dtype: "i32" }));
  return logprobs.mul(tensor(weight, { backend })).sum();
}

let step = 0;
function forwardBackward(): void {
  using arena = new Arena();
  arena.run(() => loss(step++).backward());
}

function report(label: string, ms: number, work: number, note: string): Row {
  const rate = Math.round((sequences * length * 1000) / ms).toLocaleString("en-US");
  return { label, ms, flops: work, note: `${rate} tok/s; ${note}` };
}

// What the peer must agree with: step 0.
let value: number;
{
  using arena = new Arena();
  const first = arena.run(() => loss(step++));
  value = await first.item();
  arena.run(() => first.backward());
}
const norm = await gradNorm(parameters);
zeroGrad(parameters);
console.log(`loss ${value.toFixed(5)}, gradient norm ${norm.toFixed(5)}`);

const rows: Row[] = [];
const train = time(bench, () => {
  forwardBackward();
  zeroGrad(parameters);
});
const hostShare = `host ${train.hostMs.toFixed(1)} ms (${((100 * train.hostMs) / train.ms).toFixed(0)} %)`;
rows.push(report("forward, loss, backward", train.ms, flops, `${hostShare}, ${train.launches} launches; ${memory()}`));

const forward = time(bench, () => {
  using arena = new Arena();
  arena.run(() => noGrad(() => loss(step++)));
});
rows.push(
  report("forward only", forward.ms, flops / 3, `host ${forward.hostMs.toFixed(1)} ms, ${forward.launches} launches`),
);

if (!flags["no-optimizer"]) {
  try {
    const optimizer = new AdamW(parameters, { lr: 1e-6 });
    const ms = await timeAsync(bench, async () => {
      forwardBackward();
      optimizer.step({ gradScale: clipScale(await gradNorm(parameters), 1) });
      optimizer.zeroGrad();
    });
    rows.push(report("with gradient norm and AdamW", ms, flops, memory()));
  } catch (error) {
    console.log(`with AdamW: ${(error as Error).message}`);
  }
}
printRows(rows, bench.roof);
backend.close();

if (bench.peers) {
  const spec = {
    ...{ vocab: config.vocabSize, hidden: config.hiddenSize, intermediate: config.intermediateSize, layers },
    ...{ heads, kvHeads: config.kvHeads, headDim, tied: config.tieWordEmbeddings, salt: SALT, sequences, length },
    ...{ repeats: bench.repeats, recompute: model.recompute, compile: flags.compile === true },
  };
  for (const { label, loss, norm: peerNorm } of (await runPeer(
    "train",
    spec,
    bench.roof,
    Number(flags.limit ?? 300),
  )) as (Row & {
    loss?: number;
    norm?: number;
  })[]) {
    if (loss === undefined || peerNorm === undefined) continue;
    const apart = (a: number, b: number) => `${(100 * Math.abs(a / b - 1)).toFixed(3)} %`;
    console.log(
      `${label}: loss ${loss.toFixed(5)}, ${apart(value, loss)} apart; ` +
        `gradient norm ${peerNorm.toFixed(5)}, ${apart(norm, peerNorm)} apart`,
    );
  }
}

function memory(): string {
  const gb = (bytes: number) => (bytes / 1e9).toFixed(1);
  return `peak ${gb(backend.memory().peakBytes)} GB${cuda ? `, held ${gb(cuda.device.heldBytes)}` : ""}`;
}
