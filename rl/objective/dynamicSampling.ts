import { exclusion, type RewardRow, totalReward } from "./rewards.js";

/**
 * Which rows belong to a group that can teach something: at least two of its rows take part, and their whole rewards
 * differ (dynamic sampling of DAPO, arXiv 2503.14476). The groups that it leaves out have advantage 0 everywhere with
 * any group baseline of the outcome.
 */
export function informativeGroups(rows: readonly RewardRow[]): Set<number> {
  const totals = new Map<number, Set<number>>();
  for (const row of rows) {
    if (exclusion(row)) continue;
    totals.set(row.group, (totals.get(row.group) ?? new Set()).add(totalReward(row)));
  }
  return new Set([...totals].filter(([, distinct]) => distinct.size > 1).map(([group]) => group));
}
