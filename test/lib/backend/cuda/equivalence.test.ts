import test, { type ExecutionContext } from "ava";
import type { Backend } from "../../../../lib/index.js";
import { cpu, cudaTest, openCuda } from "./support.js";
import { SmallRun, type Variant } from "./training.js";

/*
 * Two ways of training that must be one, after TRL's equivalence tests. First each goes its own way for 50 steps, and the
 * losses stay together. Then at each step one takes over the other's state, both make the step, and the losses after it
 * are compared: errors do not compound, so the residuals are independent, and a systematic error shows in their mean long
 * before it shows in any one of them.
 */

const STEPS = 50;
const SAME_LOSS = 1e-4;
const STANDARD_ERRORS = 3;
/** Half a unit in the last place of f32: two devices may round that far to one side. */
const RESOLUTION = 2 ** -24;

interface Arm {
  readonly backend: Backend;
  readonly variant?: Partial<Variant>;
}

interface Comparison {
  /** Largest relative difference of a step's loss, each on its own way. */
  readonly apart: number;
  /** Relative differences of the loss after a step from the same state. */
  readonly residuals: readonly number[];
}

async function compare(a: Arm, b: Arm): Promise<Comparison> {
  const open = ({ backend, variant }: Arm) => new SmallRun(backend, variant);
  const [first, second, follower] = [open(a), open(b), open(b)];
  let apart = 0;
  const residuals: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    await follower.follow(first);
    for (const run of [first, second, follower]) await run.step(step);
    const [own, others, followed] = [await first.loss(step), await second.loss(step), await follower.loss(step)];
    apart = Math.max(apart, Math.abs(others / own - 1));
    residuals.push(followed / own - 1);
  }
  for (const run of [first, second, follower]) run.dispose();
  return { apart, residuals };
}

/** Mean of the residuals, and how many standard errors that is; 0 where all are 0. */
function meanOf(residuals: readonly number[]): { mean: number; errors: number; text: string } {
  const n = residuals.length;
  const mean = residuals.reduce((a, b) => a + b, 0) / n;
  const variance = residuals.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const errors = mean === 0 ? 0 : mean / Math.sqrt(variance / n);
  return {
    mean,
    errors,
    text: `mean residual ${mean.toExponential(1)}, ${errors.toFixed(2)} standard errors from zero`,
  };
}

async function check(t: ExecutionContext, a: Arm, b: Arm): Promise<void> {
  const { apart, residuals } = await compare(a, b);
  const { mean, errors, text } = meanOf(residuals);
  t.log(`losses at most ${apart.toExponential(1)} apart; ${text}`);
  t.true(apart < SAME_LOSS, `losses are ${apart} apart`);
  t.true(Math.abs(errors) < STANDARD_ERRORS || Math.abs(mean) < RESOLUTION, text);
}

const pairs: Record<string, readonly [a: Partial<Variant>, b: Partial<Variant>]> = {
  "packed and one by one": [{}, { split: "one by one" }],
  "1 × 8 and 8 × 1 accumulation": [{}, { split: "accumulated" }],
  "with and without recompute": [{}, { recompute: true }],
};

for (const [name, [a, b]] of Object.entries(pairs)) {
  test(`cpu: ${name} train alike`, (t) => check(t, { backend: cpu, variant: a }, { backend: cpu, variant: b }));
  cudaTest(`cuda: ${name} train alike`, async (t) => {
    const backend = await openCuda();
    await check(t, { backend, variant: a }, { backend, variant: b });
  });
}

cudaTest("cpu and cuda train alike", async (t) => check(t, { backend: cpu }, { backend: await openCuda() }));

async function checkNotices(t: ExecutionContext, a: Arm, b: Arm): Promise<void> {
  const { residuals } = await compare(a, { ...b, variant: { ...b.variant, gradientError: 1e-3 } });
  const { mean, errors, text } = meanOf(residuals);
  t.log(text);
  t.true(Math.abs(errors) > 2 * STANDARD_ERRORS && Math.abs(mean) > 2 * RESOLUTION, `not noticed: ${text}`);
}

test("cpu: the check notices a relative error of 1e-3 in the gradient of one matrix", (t) =>
  checkNotices(t, { backend: cpu }, { backend: cpu, variant: { split: "accumulated" } }));

cudaTest("cuda: the check notices a relative error of 1e-3 in the gradient of one matrix", async (t) =>
  checkNotices(t, { backend: cpu }, { backend: await openCuda() }),
);
