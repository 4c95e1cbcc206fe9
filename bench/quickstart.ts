/**
 * The quickstart over several seeds, beside shared-outcome credit and two runs that must not learn: outcomes dealt to the
 * wrong conversations, and a learning rate of 0.
 *
 *     npm run bench -- quickstart [SEED…] [key.path=value…]
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadTrainConfig } from "../rl/config.js";
import { type RunResult, train } from "../rl/run.js";

const args = process.argv.slice(2);
const overrides = args.filter((arg) => arg.includes("="));
const seeds = args.filter((arg) => /^\d+$/.test(arg)).map(Number);
if (seeds.length === 0) seeds.push(100, 101, 102, 103, 104);

const arms: readonly (readonly [name: string, overrides: readonly string[]])[] = [
  ["Norm-ITPO", []],
  ["shared outcome", ["credit.method=shared"]],
  ["permuted outcomes", ["control=permuted_outcomes"]],
  ["learning rate 0", ["policy.lr=0", "prm.lr=0"]],
];

const output = await mkdtemp(join(tmpdir(), "itpo-quickstart-"));
try {
  for (const [name, own] of arms) {
    const results: RunResult[] = [];
    for (const seed of seeds) {
      const config = await loadTrainConfig("quickstart", [`seed=${seed}`, `output=${output}`, ...own, ...overrides]);
      const result = await train(config, { print: silent, stream: { write: silent } });
      results.push(result);
      const { before, after, seconds } = result;
      console.log(`${name}, seed ${seed}: ${before.toFixed(3)} → ${after.toFixed(3)} in ${seconds.toFixed(1)} s`);
    }
    const outcomes = results.map(({ after }) => after);
    console.log(`${name}: mean ${mean(outcomes).toFixed(3)}, lowest ${Math.min(...outcomes).toFixed(3)}`);
    printAlignment(results);
  }
} finally {
  await rm(output, { recursive: true });
}

/** Credit against the truth, mean share over the seeds. */
function printAlignment(results: readonly RunResult[]): void {
  for (const [i, { step, methods }] of (results[0]?.alignment ?? []).entries()) {
    const shares = Object.keys(methods).map((method) => {
      const each = results.map(({ alignment }) => alignment[i].methods[method]);
      return `${method} ${mean(each.map(({ share }) => share)).toFixed(3)}`;
    });
    const trials = results.reduce((sum, { alignment }) => sum + alignment[i].methods.chance.trials, 0);
    console.log(`  credit on the useful turn at step ${step}, ${trials} conversations: ${shares.join(", ")}`);
  }
}

function silent(): void {}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
