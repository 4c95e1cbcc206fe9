/**
 * What training leaves behind: the quickstart's step at a reduced batch, and what a run writes down of it. Prints the
 * bytes in live tensors, which must not change, and how much memory the process gains per step after forced collections.
 *
 *     node --expose-gc dist/bench/leak.js [steps, default 500]
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../lib/index.js";
import { loadTrainConfig } from "../rl/config.js";
import { openMetrics } from "../rl/report/metrics.js";
import { openPolicy, openSetting } from "../rl/setup.js";
import { Trainer } from "../rl/trainer.js";

const FROM = 50;
const steps = Number(process.argv[2] ?? 500);
const collect = globalThis.gc;
if (!collect) throw new Error("give node the flag --expose-gc");

const config = await loadTrainConfig("quickstart", [
  ...["rollout.prompts=4", "rollout.samples=4", "prm.miniBatch=8", "policy.miniBatch=8", `steps=${steps}`],
]);
const backend = await openDevice(config.device);
const { environment, tokenizer } = await openSetting(config.environment);
const policy = await openPolicy(config, backend, tokenizer);
const trainer = new Trainer(config, { ...policy, policy: policy.model, environment });
const folder = await mkdtemp(join(tmpdir(), "itpo-leak-"));
const metrics = openMetrics(folder);

const samples: { step: number; rss: number; heap: number }[] = [];
for (let step = 1; step <= steps; step++) {
  metrics.log((await trainer.step(step)).metrics);
  metrics.flush(step);
  if (step === 20 || step === 200 || step === steps) {
    const { bytes, buffers } = backend.memory();
    console.log(`step ${step}: ${bytes.toLocaleString("en-US")} bytes in ${buffers} live buffers on ${backend.name}`);
  }
  if (step < FROM) continue;
  collect();
  const { rss, heapUsed } = process.memoryUsage();
  samples.push({ step, rss, heap: heapUsed });
}
metrics.close();
await rm(folder, { recursive: true });

for (const name of ["rss", "heap"] as const) {
  const { slope, error } = fitLine(samples.map((sample) => [sample.step, sample[name]]));
  const last = (samples.at(-1)![name] / 2 ** 20).toFixed(1);
  console.log(`${name}: ${slope.toFixed(0)} ± ${error.toFixed(0)} bytes a step over steps ${FROM} to ${steps}, ${last} MiB at the end`);
}

/** Least squares: the slope and its standard error. */
function fitLine(points: readonly (readonly [x: number, y: number])[]): { slope: number; error: number } {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const [x0, y0] = [mean(points.map(([x]) => x)), mean(points.map(([, y]) => y))];
  const spread = points.reduce((sum, [x]) => sum + (x - x0) ** 2, 0);
  const slope = points.reduce((sum, [x, y]) => sum + (x - x0) * (y - y0), 0) / spread;
  const residual = points.reduce((sum, [x, y]) => sum + (y - y0 - slope * (x - x0)) ** 2, 0);
  return { slope, error: Math.sqrt(residual / (points.length - 2) / spread) };
}
