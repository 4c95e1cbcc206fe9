/** What holds for all inputs: of credit, advantages and losses together. */
import test from "ava";
import fc from "fast-check";
import {
  type AdvantageOptions,
  addMetrics,
  advantageEstimators,
  assignCredit,
  creditMethods,
  estimateAdvantages,
  type Loss,
  lengthShares,
  type Outputs,
  type PolicyRow,
  type PrmPairRow,
  policyLoss,
  policyLossNames,
  prmLoss,
  prmPairLoss,
  type RewardRow,
  type Rewards,
  rlooForms,
  type SftRow,
  sftLoss,
  type TokenRange,
  turnRanges,
  turnRewards,
  turnSums,
  type ValueRow,
  valueLoss,
} from "../../../rl/objective/index.js";
import { close, evaluate, near } from "./support.js";

const real = (size: number) => fc.double({ min: -size, max: size, noNaN: true });

/** A conversation with 0 to 4 turns, in one of three groups, numbers up to `size`. */
const rowOf = (size: number): fc.Arbitrary<RewardRow> =>
  fc
    .record({
      group: fc.integer({ min: 0, max: 2 }),
      turns: fc.array(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 4 })), { maxLength: 4 }),
      outcome: real(size),
      lengthPenalty: real(size),
      scores: fc.array(real(size), { minLength: 30, maxLength: 30 }),
      values: fc.array(real(size), { minLength: 30, maxLength: 30 }),
      judgeScores: fc.array(real(size).map(Math.abs), { minLength: 4, maxLength: 4 }),
      sample: fc.nat(),
    })
    .map(({ turns, scores, ...row }) => {
      const mask = turns.flatMap(([gap, length]) => [...Array<number>(gap).fill(0), ...Array<number>(length).fill(1)]);
      return { ...row, tokens: 30, turns: turnRanges(mask), scores: Float64Array.from(scores) };
    });

const rowsOf = (size: number) => fc.array(rowOf(size), { minLength: 1, maxLength: 9 });
const normalisations = ["rms", "whiten", "none"] as const;
const estimates: AdvantageOptions[] = [
  ...rlooForms.flatMap((form) => normalisations.map((normalise): AdvantageOptions => ({ form, normalise }))),
  ...advantageEstimators.map((estimator): AdvantageOptions => ({ estimator, gamma: 0.9, lambda: 0.8 })),
  { estimator: "reinforce_plus_plus", acrossTurns: false },
  { estimator: "grpo", normalise: "rms" },
];

/** With the values that the rows bring, and a greedy conversation of reward 0.5 for every group. */
function estimate(rows: readonly RewardRow[], rewards: Rewards, options: AdvantageOptions) {
  const baselines = new Map(rows.map(({ group }) => [group, 0.5]));
  return estimateAdvantages(rows, rewards, options, { values: rows.map(({ values }) => values), baselines });
}

test("credit sums to the whole reward; ITPO's and PRIME's to the scores and the penalty; a critic's to what it gained", (t) => {
  fc.assert(
    fc.property(rowsOf(2), fc.constantFrom("mean", "sum"), real(1).map(Math.abs), (rows, form, uniformMix) => {
      for (const method of creditMethods) {
        const sums = turnRewards(rows, assignCredit(rows, { method, form, uniformMix }));
        rows.forEach(({ turns, outcome, lengthPenalty = 0, scores = [], values = [] }, i) => {
          if (turns.length === 0) return;
          const byScores = method === "itpo" || method === "prime";
          const earned = method === "value" ? outcome - values[turns[0].start] : outcome;
          const expected = byScores ? turnSums(scores, turns).reduce((a, b) => a + b, 0) : earned;
          close(
            t,
            sums[i].reduce((a, b) => a + b, 0),
            expected + lengthPenalty,
            1e-9,
            method,
          );
        });
      }
    }),
    { numRuns: 50 },
  );
  t.pass();
});

test("the order of rows and the names of groups change nothing", (t) => {
  fc.assert(
    fc.property(rowsOf(2), fc.infiniteStream(fc.nat()), (rows, keys) => {
      const order = rows.map((_, i) => ({ i, key: keys.next().value as number })).sort((a, b) => a.key - b.key);
      for (const method of creditMethods) {
        // Random credit is drawn by the group's name.
        const name = (group: number) => (method === "dirichlet" ? group : 1000 - 7 * group);
        const shuffled = order.map(({ i }) => ({ ...rows[i], group: name(rows[i].group) }));
        for (const options of estimates) {
          const plain = estimate(rows, assignCredit(rows, { method }), options);
          const other = estimate(shuffled, assignCredit(shuffled, { method }), options);
          near(
            t,
            other.advantages,
            order.map(({ i }) => plain.advantages[i]),
            1e-9,
            `${method} ${options.estimator} ${options.form}`,
          );
          if (JSON.stringify(plain.counts) !== JSON.stringify(other.counts)) t.fail("counts differ");
        }
      }
    }),
    { numRuns: 40 },
  );
  t.pass();
});

test("extreme scores, outcomes and penalties stay finite", (t) => {
  fc.assert(
    fc.property(rowsOf(1e4), (rows) => {
      for (const method of creditMethods) {
        for (const options of estimates) {
          const { advantages, returns } = estimate(
            rows,
            assignCredit(rows, { method, outcomeCoefficient: 1 }),
            options,
          );
          if (![...advantages, ...returns].every((stream) => stream.every(Number.isFinite))) t.fail(method);
        }
      }
    }),
    { numRuns: 40 },
  );
  t.pass();
});

test("length shares sum to one", (t) => {
  fc.assert(
    fc.property(rowOf(1), ({ turns }) => {
      if (turns.length > 0)
        close(
          t,
          lengthShares(turns).reduce((a, b) => a + b),
          1,
          1e-12,
        );
    }),
  );
  t.pass();
});

const numbers = fc.array(fc.double({ min: -4, max: 0, noNaN: true }), { minLength: 30, maxLength: 30 });
type LossRow = PolicyRow & PrmPairRow & ValueRow & SftRow;

const lossRow: fc.Arbitrary<LossRow> = fc
  .record({
    row: rowOf(1),
    label: fc.double({ min: 0, max: 1, noNaN: true }),
    old: numbers,
    reference: numbers,
    weights: numbers,
  })
  .map(({ row, label, old, reference, weights }) => ({
    turns: row.turns,
    ...{ label, weights, group: row.group },
    oldLogprobs: old,
    referenceLogprobs: reference,
    advantages: row.scores ?? [],
    importance: weights.map(Math.abs),
    oldValues: old,
    returns: reference,
  }));
const output: fc.Arbitrary<Outputs> = fc.record({ logprobs: numbers, entropy: numbers, values: numbers });

const losses: Loss<LossRow>[] = [
  ...(["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"] as const).map(
    (aggregation) => policyLoss({ aggregation, normLength: 30, kl: { coefficient: 0.1 }, entropyCoefficient: 0.01 }),
  ),
  ...policyLossNames
    .map((loss) => policyLoss({ loss, kl: { coefficient: 0.1, estimator: "k1+" } }))
    .filter(({ scope }) => scope !== "batch"),
  valueLoss(),
  prmLoss({ beta: 0.5 }),
  sftLoss(),
];

test("cutting a mini-batch into micro-batches leaves gradients the same bits; values and metrics add up", (t) => {
  const batches = fc.array(fc.tuple(lossRow, output, fc.integer({ min: 0, max: 3 })), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(batches, (batch) => {
      const rows = batch.map(([row]) => row);
      for (const loss of losses) {
        const whole = evaluate(
          loss,
          rows,
          batch.map(([, outputs]) => outputs),
        );
        const bound = loss.bind(rows);
        const metrics: Record<string, number> = {};
        let value = 0;
        for (const part of [0, 1, 2, 3]) {
          const indices = [...rows.keys()].filter((i) => batch[i][2] === part).reverse();
          const result = bound(
            indices.map((i) => batch[i][1]),
            indices,
          );
          value += result.value;
          addMetrics(metrics, result.metrics);
          indices.forEach((i, j) => {
            near(t, [result.gradients[j].logprobs], [whole.gradients[i].logprobs], 0, loss.name);
            near(t, [result.gradients[j].values ?? []], [whole.gradients[i].values ?? []], 0, loss.name);
          });
        }
        close(t, value, whole.value, 1e-10, loss.name);
        for (const [name, expected] of Object.entries(whole.metrics)) close(t, metrics[name], expected, 1e-10, name);
      }
    }),
    { numRuns: 60 },
  );
  t.pass();
});

test("losses of inputs of up to 1e4, over no token, one or more, stay finite", (t) => {
  const batchwise = policyLossNames.map((loss) => policyLoss({ loss })).filter(({ scope }) => scope === "batch");
  const extreme = fc.array(fc.oneof(real(1e4), fc.constantFrom(-1e4, 0, 1e4)), { minLength: 30, maxLength: 30 });
  const row: fc.Arbitrary<LossRow> = fc.record({
    ...{ advantages: extreme, oldLogprobs: extreme, referenceLogprobs: extreme, oldValues: extreme, returns: extreme },
    turns: fc.oneof(
      fc.constantFrom<TokenRange[]>([], [{ start: 3, end: 4 }]),
      rowOf(1).map(({ turns }) => turns),
    ),
    ...{ label: fc.double({ min: 0, max: 1, noNaN: true }), importance: fc.constant(Array<number>(30).fill(1)) },
    ...{ weights: numbers, group: fc.integer({ min: 0, max: 1 }) },
  });
  const outputs = fc.record({ logprobs: extreme, entropy: extreme, values: extreme });
  const all: Loss<LossRow>[] = [
    ...losses,
    ...batchwise,
    ...(["dpo", "bon_acc", "bon_rm"] as const).map((form) => prmPairLoss({ beta: 0.5, form })),
  ];
  fc.assert(
    fc.property(fc.array(fc.tuple(row, outputs), { minLength: 1, maxLength: 4 }), (batch) => {
      const [rows, given] = [batch.map(([row]) => row), batch.map(([, outputs]) => outputs)];
      for (const loss of all) {
        const { value, gradients, metrics } = evaluate(loss, rows, given);
        const streams = gradients.flatMap(({ logprobs, entropy = [], values = [] }) => [logprobs, entropy, values]);
        const seen = [value, ...Object.values(metrics), ...streams.flatMap((stream) => [...stream])];
        if (!seen.every(Number.isFinite)) t.fail(loss.name);
      }
    }),
    { numRuns: 60 },
  );
  t.pass();
});
