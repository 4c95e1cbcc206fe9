import { InputError } from "../../../lib/errors.js";
import type { RewardRow } from "../rewards.js";

/** A judge's scores of a row's turns over their sum; equal shares where all are 0. */
export function judgeWeights({ turns, judgeScores }: RewardRow): Float64Array {
  if (!judgeScores) throw new Error("credit: method judge needs a judge's score of every turn, and a row has none");
  const scores = Float64Array.from(turns, (_, k) => judgeScores[k]);
  const worst = scores.find((score) => score < 0);
  if (worst !== undefined) throw new InputError(`judge: the score of a turn must not be negative, is ${worst}`);
  const largest = scores.reduce((a, b) => Math.max(a, b), 0);
  if (largest === 0) return scores.fill(1 / turns.length);
  const sum = scores.reduce((a, b) => a + b / largest, 0);
  return scores.map((score) => score / largest / sum);
}
