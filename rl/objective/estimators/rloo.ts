/** REINFORCE with a leave-one-out baseline (RLOO) for rewards of turns, tokens and conversations. */
import { type Advantages, accumulate, gather, type Member } from "../advantage.js";
import { affine, type Normalisation, normaliser } from "../normalise.js";
import type { RewardRow, Rewards } from "../rewards.js";
import { countTokens, type TokenRange } from "../turns.js";

/**
 * How the baseline is taken. With ρ[i,k] the turn rewards, G[i,k] = Σ_{j≥k} ρ[i,j] the reward to go, R_i = G[i,0] and
 * siblings i' ≠ i of the same group; a conversation's reward counts as earned at its last token:
 *
 *     turn_index  A[i,k] = G[i,k] − mean of G[i',k] over the siblings that reached turn k
 *     row_total   A[i,k] = G[i,k] − mean of R_i'
 *     share       A[i,k] = K_i·ρ[i,k] − mean of R_i'       (a conversation's reward counts whole in every turn)
 *     advantage_share
 *                 A[i,k] = K_i·w[i,k]·(R_i − mean of R_i') where that is positive, R_i − mean of R_i' else; w the weights by
 *                 which credit divides the outcome, 1/K_i where it does not
 *     reference   the reference implementation: with x_i the mean of ρ[i,·] and n the group's size,
 *                 A'[i,k] = ρ[i,k]·n/(n−1) − Σ_i' x_i'/(n−1), i' = i included, and A[i,k] = Σ_{j≥k} A'[i,j]
 *
 * For rewards per token, token t of turn k takes the place of the turn: its reward to go less the siblings' at the
 * start of turn k (`turn_index`), N_i·r[i,t] with N_i the row's sampled tokens (`share`), x_i the mean over tokens
 * (`reference`).
 *
 * `turn_index` is 0 where outcomes, turn counts and credit are equal; but when the policy decides the number of turns
 * and credit is a share of the outcome, it drifts to longer talks. `row_total` punishes late turns. `share` with
 * uniform credit is the RLOO of the shared outcome. `advantage_share` is 0 wherever outcomes are equal, however many the
 * turns and whatever the credit; a loss is every turn's alike, since weights say which turn earned, not which one lost.
 * `reference` charges a price per turn: a longer row with an equal
 * outcome comes out worse.
 */
export type RlooForm = "turn_index" | "row_total" | "share" | "advantage_share" | "reference";

export interface RlooOptions {
  /** Default `advantage_share` where credit divides the outcome by weights, else `turn_index`. */
  readonly form?: RlooForm;
  /** Default `rms`; the reference implementation whitens. */
  readonly normalise?: Normalisation;
}

/**
 * Fills in the advantages of one group, whose returns hold the rewards to go; gives the number of turns without a
 * baseline.
 */
type Form = (group: readonly Member[]) => number;

const forms: Record<RlooForm, Form> = {
  turn_index(group) {
    let unpaired = 0;
    const longest = Math.max(...group.map(({ turns }) => turns.length));
    for (let k = 0; k < longest; k++) {
      const reached = group.filter(({ turns }) => turns.length > k);
      if (reached.length === 1 && group.length > 1) unpaired++;
      const base = leaveOneOut(reached.map(({ turns, returns }) => returns[turns[k].start]));
      reached.forEach((member, i) => {
        fillTurn(member, k, base[i]);
      });
    }
    return unpaired;
  },

  row_total(group) {
    const base = leaveOneOut(group.map(totalOf));
    group.forEach((member, i) => {
      const total = totalOf(member);
      member.turns.forEach(({ start }, k) => {
        fillTurn(member, k, base[i] + (member.returns[start] - total));
      });
    });
    return 0;
  },

  share(group) {
    const base = leaveOneOut(group.map(totalOf));
    group.forEach(({ turns, rewards, advantages }, i) => {
      const turnMean = mean(rewards.turns);
      turns.forEach(({ start, end }, k) => {
        advantages.fill(base[i] + turns.length * (rewards.turns[k] - turnMean), start, end);
      });
      if (!rewards.tokens) return;
      const count = countTokens(turns);
      const tokenMean = meanOfTokens(rewards.tokens, turns);
      for (const { start, end } of turns) {
        for (let t = start; t < end; t++) advantages[t] += count * (rewards.tokens[t] - tokenMean);
      }
    });
    return 0;
  },

  advantage_share(group) {
    const base = leaveOneOut(group.map(totalOf));
    group.forEach(({ turns, weights, advantages }, i) => {
      turns.forEach(({ start, end }, k) => {
        const share = weights && base[i] > 0 ? turns.length * weights[k] : 1;
        advantages.fill(share * base[i], start, end);
      });
    });
    return 0;
  },

  reference(group) {
    const factor = group.length > 1 ? group.length / (group.length - 1) : 1;
    const turnMeans = group.map(({ rewards }) => mean(rewards.turns));
    const tokenMeans = group.map(({ rewards, turns }) => (rewards.tokens ? meanOfTokens(rewards.tokens, turns) : 0));
    const turnBase = leaveOneOut(turnMeans);
    const tokenBase = leaveOneOut(tokenMeans);
    const conversation = leaveOneOut(group.map(({ rewards }) => rewards.conversation));
    group.forEach(({ turns, rewards, advantages, returns }, i) => {
      const tokens = rewards.tokens && new Float64Array(rewards.tokens.length);
      if (tokens) affine(tokens, rewards.tokens, turns, tokenMeans[i], factor, tokenBase[i]);
      const turnRewards = rewards.turns.map((reward) => (reward - turnMeans[i]) * factor + turnBase[i]);
      accumulate({ turns: turnRewards, conversation: conversation[i], tokens }, turns, returns);
      advantages.set(returns);
    });
    return 0;
  },
};

export const rlooForms = Object.keys(forms) as RlooForm[];

/**
 * Leave-one-out advantages of every token from rewards of turns, tokens and conversations. Excluded rows do not count
 * in their group and get 0; the only row of a group gets its reward as it is. Outside the turns advantages are 0,
 * except with form `reference`, which leaves the values that the reference has there.
 */
export function rloo(
  rows: readonly RewardRow[],
  rewards: Rewards,
  { form = rewards.weights ? "advantage_share" : "turn_index", normalise = "rms" }: RlooOptions = {},
): Advantages {
  const { groups, advantages, returns, counts } = gather(rows, rewards);
  let unpairedTurns = 0;
  for (const group of groups) {
    for (const member of group) accumulate(member.rewards, member.turns, member.returns);
    unpairedTurns += forms[form](group);
  }
  const members = groups.flat();
  const turns = members.map((member) => member.turns);
  const raw = members.map((member) => member.advantages);
  const { mean, scale } = normaliser(raw, turns, normalise);
  raw.forEach((row, i) => {
    affine(row, row, form === "reference" ? [{ start: 0, end: row.length }] : turns[i], mean, scale);
  });
  return { advantages, returns, counts: { ...counts, unpairedTurns } };
}

/** R_i, once the returns hold the rewards to go. */
function totalOf({ turns, returns }: Member): number {
  return returns[turns[0].start];
}

/** Sets turn k to a base, less what its earlier tokens have earned already. */
function fillTurn({ turns, rewards, advantages, returns }: Member, k: number, base: number): void {
  const { start, end } = turns[k];
  advantages.fill(base, start, end);
  if (rewards.tokens) for (let t = start; t < end; t++) advantages[t] += returns[t] - returns[start];
}

// Means are taken about a first value, so that equal values give differences of exactly 0.

/** x_i − mean of the others; x itself when there are no others. */
function leaveOneOut(values: readonly number[]): readonly number[] {
  if (values.length < 2) return values;
  const offsets = values.map((value) => value - values[0]);
  const sum = offsets.reduce((a, b) => a + b, 0);
  return offsets.map((offset) => offset - (sum - offset) / (values.length - 1));
}

function mean(values: Float64Array): number {
  return meanOfTokens(values, [{ start: 0, end: values.length }]);
}

function meanOfTokens(values: Float64Array, turns: readonly TokenRange[]): number {
  const first = values[turns[0].start];
  let sum = 0;
  for (const { start, end } of turns) {
    for (let t = start; t < end; t++) sum += values[t] - first;
  }
  return first + sum / countTokens(turns);
}
