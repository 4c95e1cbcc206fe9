/** Credit assignment: how the reward of a conversation, or the scores of its tokens, become rewards of its turns. */
import { exclusion, type RewardRow, type Rewards, type RowRewards, totalReward } from "../rewards.js";
import { lengthShares, turnSums } from "../turns.js";
import { type DirichletOptions, dirichletWeights } from "./dirichlet.js";
import { judgeWeights } from "./judge.js";
import { type NormItpoOptions, normItpoWeights, tokenScoresOf } from "./normItpo.js";
import { valueDifferences } from "./value.js";

interface Credit {
  readonly rewards: RowRewards[];
  readonly weights?: Float64Array[];
}

export type CreditMethod = "norm_itpo" | "uniform" | "dirichlet" | "judge" | "itpo" | "prime" | "value" | "shared";

type Method = (rows: readonly RewardRow[], options: NormItpoOptions & DirichletOptions) => Credit;

/**
 * The methods by name. With w the weights, ℓ the turn's share of the row's sampled tokens, S the sum of its token
 * scores:
 */
const methods: Record<CreditMethod, Method> = {
  /** w[k]·outcome + ℓ[k]·lengthPenalty, w a softmax over the turns' scores. Sums to R. */
  norm_itpo: (rows, options) => byWeights(rows, normItpoWeights(rows, options)),
  /** outcome / K + ℓ[k]·lengthPenalty. Sums to R. */
  uniform: (rows) =>
    byWeights(
      rows,
      rows.map(({ turns }) => new Float64Array(turns.length).fill(1 / turns.length)),
    ),
  /** w[k]·outcome + ℓ[k]·lengthPenalty, w drawn from a Dirichlet distribution: a control for credit. Sums to R. */
  dirichlet: (rows, options) => byWeights(rows, dirichletWeights(rows, options)),
  /** w[k]·outcome + ℓ[k]·lengthPenalty, w the judge's scores of the turns over their sum. Sums to R. */
  judge: (rows) => byWeights(rows, rows.map(judgeWeights)),
  /** S[k] + ℓ[k]·lengthPenalty: the outcome enters through the training of the process reward model alone. */
  itpo: (rows) => ({
    rewards: rows.map((row) => {
      const sums = turnSums(tokenScoresOf(row), row.turns);
      return { turns: penalties(row).map((penalty, k) => sums[k] + penalty), conversation: 0 };
    }),
  }),
  /** PRIME: each sampled token earns its own score; ℓ[k]·lengthPenalty per turn. */
  prime: (rows) => ({
    rewards: rows.map((row) => ({ turns: penalties(row), conversation: 0, tokens: tokenScoresOf(row) })),
  }),
  /** What a critic gained by each token: V[next] − V[t], R in place of the value after the last. Sums to R − V[first]. */
  value: (rows) => ({
    rewards: rows.map((row) => ({
      turns: new Float64Array(row.turns.length),
      conversation: 0,
      tokens: valueDifferences(row),
    })),
  }),
  /** R once, at the end of the last turn, so that every token shares it. */
  shared: (rows) => ({
    rewards: rows.map((row) => ({ turns: new Float64Array(row.turns.length), conversation: totalReward(row) })),
  }),
};

export const creditMethods = Object.keys(methods) as CreditMethod[];

export interface CreditOptions extends NormItpoOptions, DirichletOptions {
  readonly method: CreditMethod;
  /** Factor on what the method gives (the reference's `reward_dpo_coef`). Default 1. */
  readonly coefficient?: number;
  /** Factor on R added once at the end of the conversation (the reference's `reward_gt_coef`). Default 0. */
  readonly outcomeCoefficient?: number;
}

/**
 * Rewards of every row of a batch. Rows that failed, have no turn or hold a non-finite number are excluded, and nothing
 * of them reaches the others. The reference implementation adds the turn sums of `itpo` once per outcome metric; here
 * once.
 *
 * @throws when the method needs token scores, values or a judge's scores and a row has none, or a method's option is out of its range.
 */
export function assignCredit(rows: readonly RewardRow[], options: CreditOptions): Rewards {
  const { method, coefficient = 1, outcomeCoefficient = 0 } = options;
  const excluded = rows.map(exclusion);
  const kept = rows.filter((_, i) => !excluded[i]);
  const credit = methods[method](kept, options);
  const scaled = credit.rewards.map(
    ({ turns, conversation, tokens }, i): RowRewards => ({
      turns: turns.map((reward) => coefficient * reward),
      conversation: coefficient * conversation + outcomeCoefficient * totalReward(kept[i]),
      tokens: coefficient === 1 ? tokens : tokens?.map((reward) => coefficient * reward),
    }),
  );
  const place = <T>(values: readonly T[]) => {
    let next = 0;
    return excluded.map((reason) => (reason ? undefined : values[next++]));
  };
  return {
    rows: place(scaled),
    excluded,
    weights: credit.weights && place(credit.weights).map((weights) => weights ?? new Float64Array(0)),
  };
}

function byWeights(rows: readonly RewardRow[], weights: Float64Array[]): Credit {
  const rewards = rows.map((row, i) => ({
    turns: penalties(row).map((penalty, k) => weights[i][k] * row.outcome + penalty),
    conversation: 0,
  }));
  return { rewards, weights };
}

/** The length penalty, split over the turns in proportion to their length. */
function penalties({ turns, lengthPenalty = 0 }: RewardRow): Float64Array {
  return lengthShares(turns).map((share) => share * lengthPenalty);
}
