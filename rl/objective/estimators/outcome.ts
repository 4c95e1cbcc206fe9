/** Estimators that know a conversation by its whole reward alone: every token of a row has the same advantage. */
import { type Advantages, gather, type Member, settle } from "../advantage.js";
import type { Normalisation } from "../normalise.js";
import type { RewardRow, Rewards } from "../rewards.js";
import { countTokens } from "../turns.js";

export type OutcomeEstimator = "grpo_vectorized" | "grpo_passk" | "rloo_vectorized" | "opo" | "gpg";

interface Row {
  /** The whole reward s. */
  readonly score: number;
  /** Sampled tokens. */
  readonly length: number;
}

/** What an estimator may know of all rows that take part. */
interface Batch {
  readonly rows: number;
  readonly nonZero: number;
}

const EPSILON = 1e-6;

/** The advantages of a group of n, with mean and std (Bessel's correction) over it. */
const formulas: Record<OutcomeEstimator, (group: readonly Row[], batch: Batch) => number[]> = {
  /** (s − mean)/(max(std, 1e-3) + 1e-6); the only row of a group: s/(1 + 1e-6) */
  grpo_vectorized(group) {
    const { mean, variance } = statistics(group);
    if (group.length === 1) return [group[0].score / (1 + EPSILON)];
    return group.map(({ score }) => (score - mean) / (Math.sqrt(Math.max(variance, EPSILON)) + EPSILON));
  },
  /** The best row: (s_max − s_second)/(std + 1e-6); all others 0 (Pass@k training, arXiv 2503.19595) */
  grpo_passk(group) {
    const sorted = group.map(({ score }) => score).sort((a, b) => b - a);
    if (sorted.length < 2) return [0];
    const best = group.findIndex(({ score }) => score === sorted[0]);
    const gain = (sorted[0] - sorted[1]) / (Math.sqrt(statistics(group).variance) + EPSILON);
    return group.map((_, i) => (i === best ? gain : 0));
  },
  /** (n·s − Σ s)/(n − 1); the only row of a group: 0 */
  rloo_vectorized(group) {
    const { mean } = statistics(group);
    const factor = group.length / Math.max(1, group.length - 1);
    return group.map(({ score }) => (group.length > 1 ? factor * (score - mean) : 0));
  },
  /** s − Σ length·s / Σ length (OPO, arXiv 2505.23585); the only row of a group: s */
  opo(group) {
    if (group.length === 1) return [group[0].score];
    const total = group.reduce((sum, { length }) => sum + length, 0);
    const first = group[0].score;
    const offset = group.reduce((sum, { score, length }) => sum + length * (score - first), 0) / total;
    return group.map(({ score }) => score - first - offset);
  },
  /** rows / max(1, rows with s ≠ 0)·(s − mean) (GPG, arXiv 2504.02546); the only row of a group: with mean 0 */
  gpg(group, { rows, nonZero }) {
    const { mean } = statistics(group);
    const factor = rows / Math.max(1, nonZero);
    return group.map(({ score }) => factor * (group.length > 1 ? score - mean : score));
  },
};

export const outcomeEstimators = Object.keys(formulas) as OutcomeEstimator[];

/** Advantages from whole rewards; where each part of a reward stands makes no difference. */
export function outcomeAdvantages(
  rows: readonly RewardRow[],
  rewards: Rewards,
  { estimator, normalise = "none" }: { readonly estimator: OutcomeEstimator; readonly normalise?: Normalisation },
): Advantages {
  const gathered = gather(rows, rewards);
  const groups = gathered.groups.map((members) => members.map(rowOf));
  const scores = groups.flat().map(({ score }) => score);
  const batch = { rows: scores.length, nonZero: scores.filter((score) => score !== 0).length };
  gathered.groups.forEach((members, g) => {
    const values = formulas[estimator](groups[g], batch);
    members.forEach(({ advantages }, i) => {
      advantages.fill(values[i]);
    });
  });
  return settle(gathered, normalise);
}

function rowOf({ rewards, turns }: Member): Row {
  let score = rewards.conversation;
  for (const reward of rewards.turns) score += reward;
  if (rewards.tokens) {
    for (const { start, end } of turns) for (let t = start; t < end; t++) score += rewards.tokens[t];
  }
  return { score, length: countTokens(turns) };
}

/** About the first score, so that equal ones give differences of exactly 0. */
function statistics(group: readonly Row[]): { mean: number; variance: number } {
  const [{ score: first }] = group;
  const offset = group.reduce((sum, { score }) => sum + (score - first), 0) / group.length;
  const squares = group.reduce((sum, { score }) => sum + (score - first - offset) ** 2, 0);
  return { mean: first + offset, variance: group.length > 1 ? squares / (group.length - 1) : 0 };
}
