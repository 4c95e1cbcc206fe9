/*
 * AdamW over all parameters of a model (bf16 with f32 masters and moments, gradients in f32) and the global gradient norm,
 * beside PyTorch's fused AdamW. Bytes: 30 a parameter for the step (reads master, gradient, both moments; writes master,
 * moments and the bf16 parameter), 4 for the norm.
 *
 *     npm run bench -- optimizer [--model 0.5b|1.5b|3b|7b] [--repeats N] [--no-peers]
 */
import { AdamW, type ParameterSet, zeros } from "../lib/index.js";
import { fresh } from "../lib/tensor.js";
import { parameterSpecs } from "../models/index.js";
import { openBench, printRows, type Row, runPeer, tile, time, weightSequence } from "./gpu.js";

const bench = await openBench({ tokens: 1, model: "1.5b" });
const { backend, config } = bench;
const bf16 = weightSequence(backend, "bf16");
const f32 = weightSequence(backend, "f32", 1e-3);
const parameters: ParameterSet = new Map(
  parameterSpecs(config).map(({ name, shape }, i) => {
    const parameter = zeros(shape, { backend, dtype: "bf16" });
    parameter.requiresGrad = true;
    parameter.grad = zeros(shape, { backend });
    tile(parameter, bf16, i);
    tile(parameter.grad, f32, i);
    return [name, parameter];
  }),
);
const count = [...parameters.values()].reduce((sum, { size }) => sum + size, 0);
const optimizer = new AdamW(parameters, { lr: 1e-6 });
const step = time(bench, () => optimizer.step({ gradScale: 0.5 }));
const label = `${(count / 1e9).toFixed(2)} B parameters in ${parameters.size} arrays`;
const rows: Row[] = [
  {
    label: `AdamW, ${label}`,
    ms: step.ms,
    bytes: 30 * count,
    note: `host ${step.hostMs.toFixed(2)} ms, ${step.launches} launches`,
  },
];
const { sumSquares } = backend.fused;
if (sumSquares) {
  const grads = [...parameters.values()].map(({ grad }) => grad!);
  const norm = time(bench, () => fresh(sumSquares(grads), []).dispose());
  rows.push({ label: `gradient norm, ${label}`, ms: norm.ms, bytes: 4 * count });
}
printRows(rows, bench.roof);
bf16.dispose();
f32.dispose();
backend.close();
if (bench.peers) {
  const shapes = parameterSpecs(config).map(({ shape }) => shape);
  await runPeer("optimizer", { shapes, repeats: bench.repeats }, bench.roof);
}
