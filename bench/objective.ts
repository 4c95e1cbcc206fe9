/*
 * What the objective costs the host: credit and advantages of 128 conversations of 4,096 tokens, six assistant turns
 * each, and the policy loss over them. Medians (best) of 31 rounds after 10 to warm up; bounds
 * hold for a core that does nothing else.
 */
import {
  type AdvantageOptions,
  assignCredit,
  type CreditMethod,
  estimateAdvantages,
  policyLoss,
  policyLossNames,
  type RewardRow,
  turnRanges,
} from "../rl/objective/index.js";

const [ROWS, TOKENS, GROUP] = [128, 4096, 8];
const LENGTHS = [100, 600, 40, 600, 40, 600, 40, 600, 40, 600, 40, 396, 400];

let state = 1;
/** Reproducible, uniform in [−0.5, 0.5). */
function noise(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32 - 0.5;
}
const stream = () => Float64Array.from({ length: TOKENS }, noise);

const turns = turnRanges(LENGTHS.flatMap((length, k) => Array<number>(length).fill(k % 2)));
const rows = Array.from(
  { length: ROWS },
  (_, i): RewardRow => ({
    ...{ group: Math.floor(i / GROUP), sample: i % GROUP, tokens: TOKENS, turns },
    scores: stream(),
    ...{ outcome: noise() + 0.5, lengthPenalty: -0.01 },
  }),
);
const inputs = {
  values: rows.map(stream),
  baselines: new Map(rows.map(({ group }) => [group, 0.5])),
};

function time(work: () => unknown): string {
  const times: number[] = [];
  for (let round = 0; round < 41; round++) {
    const start = performance.now();
    work();
    times.push(performance.now() - start);
  }
  const sorted = times.slice(10).sort((a, b) => a - b);
  return `${sorted[15].toFixed(1)} (${sorted[0].toFixed(1)})`.padStart(20);
}

const estimates: readonly AdvantageOptions[] = [
  {},
  { form: "reference", normalise: "whiten" },
  { estimator: "grpo" },
  { estimator: "ppo" },
  { estimator: "reinforce_plus_plus" },
];
const methods: readonly CreditMethod[] = ["norm_itpo", "itpo", "prime", "dirichlet", "shared"];
const names = estimates.map(({ estimator, form = "" }) => `${estimator ?? "rloo"} ${form}`.trim());

console.log(`credit and advantages of ${ROWS} × ${TOKENS} tokens, ms`);
console.log(["".padEnd(10), ...names.map((name) => name.padStart(20))].join(""));
for (const method of methods) {
  const times = estimates.map((options) =>
    time(() => estimateAdvantages(rows, assignCredit(rows, { method }), options, inputs)),
  );
  console.log(method.padEnd(10) + times.join(""));
}

const policyRows = rows.map(() => ({
  turns,
  oldLogprobs: stream(),
  advantages: stream(),
  referenceLogprobs: stream(),
}));
const outputs = rows.map(() => ({ logprobs: stream() }));
const indices = rows.map((_, i) => i);
console.log("\npolicy loss with a KL term over the same tokens, ms");
for (const loss of policyLossNames) {
  const bound = policyLoss({ loss, kl: { coefficient: 0.1 } }).bind(policyRows);
  console.log(loss.padEnd(10) + time(() => bound(outputs, indices)));
}
