import { type RewardRow, totalReward } from "../rewards.js";

/**
 * One-step differences of a critic's values along the sampled tokens, user messages skipped: what the critic thinks that
 * each token gained (a learned value model as the process reward). [tokens], 0 outside the turns.
 */
export function valueDifferences(row: RewardRow): Float64Array {
  const { turns, tokens, values } = row;
  if (!values) throw new Error("credit: method value needs a critic's values, and a row has none");
  const differences = new Float64Array(tokens);
  let next = totalReward(row);
  for (const { start, end } of turns.toReversed()) {
    for (let t = end - 1; t >= start; t--) {
      differences[t] = next - values[t];
      next = values[t];
    }
  }
  return differences;
}
