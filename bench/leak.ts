/**
 * What training leaves behind: the quickstart's warm-up, then its steps at a reduced batch and what a run keeps of them.
 * Prints the bytes in live tensors, which must not change, and what the process gains per step, sampled after forced
 * collections and after the C library (glibc) has given back what it holds of freed memory.
 *
 *     MALLOC_ARENA_MAX=1 node --expose-gc --single-threaded --compact-on-every-full-gc dist/bench/leak.js [STEPS] [every=90] [hold] [points] [key.path=value…]
 *
 * Without the flags the figure is noise: V8's compiling threads have arenas that come and go by megabytes, and pages that
 * it keeps half empty do too. Part of `rss` is `code`, what V8 compiled, of which there is more until the last function
 * that steps call has been compiled; `native` is `rss` without V8's heap. With `hold` V8 compiles nothing more from the
 * first sample on, with node's `--no-opt` it makes no optimized code and with `--jitless` no code at all (slow), which
 * leaves what the program itself keeps. `points` prints every sample.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getHeapCodeStatistics, getHeapStatistics, setFlagsFromString } from "node:v8";
import koffi from "koffi";
import { openDevice } from "../lib/index.js";
import { loadTrainConfig } from "../rl/config.js";
import { quickstartScript } from "../rl/environments/quickstart/scripts.js";
import { scriptBatches } from "../rl/environments/warmup.js";
import { Learner } from "../rl/learner.js";
import { openMetrics } from "../rl/report/metrics.js";
import { openPolicy, openSetting } from "../rl/setup.js";
import { fineTune } from "../rl/sft.js";
import { Trainer } from "../rl/trainer.js";

const FROM = 50;
const args = process.argv.slice(2);
/** Steps from one sample to the next: a collection throws code away, which the steps after it compile again. */
const EVERY = Number(args.find((arg) => arg.startsWith("every="))?.slice("every=".length) ?? 90);
const steps = Number(args.find((arg) => /^\d+$/.test(arg)) ?? 500);
const collect = globalThis.gc;
if (!collect) throw new Error("give node the flag --expose-gc");
const trim = process.platform === "linux" ? koffi.load(null).func("int malloc_trim(size_t)") : () => {};

const small = ["rollout.prompts=4", "rollout.samples=4", "prm.miniBatch=8", "policy.miniBatch=8"];
const overrides = args.filter((arg) => arg.includes("=") && !arg.startsWith("every="));
const config = await loadTrainConfig("quickstart", [`steps=${steps}`, ...small, ...overrides]);
const backend = await openDevice(config.device);
const { environment, tokenizer } = await openSetting(config, backend);
const policy = await openPolicy(config, backend, tokenizer);
if (config.warmup) {
  const learner = new Learner(policy.model, config.warmup);
  const { batchSize: size } = config.warmup;
  await fineTune(
    learner,
    config.warmup,
    scriptBatches(policy, quickstartScript, { size, games: environment.size, seed: config.seed }),
  );
  learner.optimizer.dispose();
}
const trainer = new Trainer(config, { ...policy, policy: policy.model, environment });
const folder = await mkdtemp(join(tmpdir(), "itpo-leak-"));
const metrics = openMetrics(folder);

const kinds = ["rss", "native", "heapUsed", "code", "arrayBuffers"] as const;
/** One row a collection: the step, then one number a kind. Made beforehand, so that keeping them takes no memory. */
const samples = new Float64Array((kinds.length + 1) * Math.max(0, Math.floor((steps - FROM) / EVERY) + 1));
let taken = 0;
for (let step = 1; step <= steps; step++) {
  if (step === FROM && args.includes("hold"))
    for (const flag of ["--no-opt", "--no-sparkplug"]) setFlagsFromString(flag);
  metrics.log((await trainer.step(step)).metrics);
  metrics.flush(step);
  if (step === 20 || step === 200 || step === steps) {
    const { bytes, buffers } = backend.memory();
    console.log(`step ${step}: ${bytes.toLocaleString("en-US")} bytes in ${buffers} live buffers on ${backend.name}`);
  }
  if (step < FROM || (step - FROM) % EVERY !== 0) continue;
  // The young generation has two halves, which a collection swaps: after two it is where it was.
  collect();
  collect();
  trim(0);
  const use = memoryUse();
  samples.set([step, ...kinds.map((kind) => use[kind])], (kinds.length + 1) * taken++);
}
metrics.close();
await rm(folder, { recursive: true });

const column = (at: number, j: number) => samples[(kinds.length + 1) * at + j];
const inMiB = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
if (args.includes("points")) {
  console.log(["step", ...kinds].map((name) => name.padStart(13)).join(""));
  for (let at = 0; at < taken; at++) {
    const row = [String(column(at, 0)), ...kinds.map((_, i) => inMiB(column(at, i + 1)))];
    console.log(row.map((text) => text.padStart(13)).join(""));
  }
}
for (const [i, kind] of kinds.entries()) {
  const points = Array.from({ length: taken }, (_, at) => [column(at, 0), column(at, i + 1)] as const);
  const { slope, error } = fitLine(points);
  const size = inMiB(points.at(-1)![1]);
  console.log(
    `${kind}: ${slope.toFixed(0)} ± ${error.toFixed(0)} bytes a step from step ${FROM} on, ${size} MiB at the end`,
  );
}

/** Bytes by kind. */
function memoryUse(): Record<(typeof kinds)[number], number> {
  const use = process.memoryUsage();
  const { code_and_metadata_size: machine, bytecode_and_metadata_size: bytecode } = getHeapCodeStatistics();
  return { ...use, native: use.rss - getHeapStatistics().total_physical_size, code: machine + bytecode };
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
