/** What is watched of the process reward model, of the credit, and of the credit against the truth. */

/**
 * How well a row's summed scores order its group by label (`dpo_acc`): over pairs of one group, weighted by the
 * difference of their labels, the share that the scores put in the same order; 0.5 for a group without a difference;
 * the mean over groups of two rows or more. NaN if there is none.
 */
export function pairAccuracy(totals: ArrayLike<number>, labels: ArrayLike<number>, groups: ArrayLike<number>): number {
  const members = new Map<number, number[]>();
  for (let i = 0; i < groups.length; i++) {
    members.set(groups[i], [...(members.get(groups[i]) ?? []), i]);
  }
  const accuracies: number[] = [];
  for (const rows of members.values()) {
    if (rows.length < 2) continue;
    let right = 0;
    let all = 0;
    rows.forEach((i, n) => {
      for (const j of rows.slice(n + 1)) {
        const difference = labels[i] - labels[j];
        all += Math.abs(difference);
        if (totals[i] > totals[j] === difference > 0) right += Math.abs(difference);
      }
    });
    accuracies.push(all > 0 ? right / all : 0.5);
  }
  return average(accuracies);
}

/** Whether the sign of a row's summed scores agrees with its label: positive above 0.5, negative below, 0 at 0.5. */
export function signAgreement(total: number, label: number): boolean {
  return Math.sign(total) === Math.sign(2 * label - 1);
}

/** Share of rows whose sign agrees (`dpo_acc_abs`). */
export function signAccuracy(totals: ArrayLike<number>, labels: ArrayLike<number>): number {
  return average(Array.from(totals, (total, i) => (signAgreement(total, labels[i]) ? 1 : 0)));
}

/**
 * Sum, mean and population variance of each row's turn values, each averaged over the rows that have turns
 * (`turn_level_sum`, `_mean`, `_var` of the turns' score sums; `proportion_variance` of their weights).
 */
export function turnStatistics(values: readonly Float64Array[]): { sum: number; mean: number; variance: number } {
  const rows = values.filter((row) => row.length > 0);
  const sums = rows.map((row) => row.reduce((a, b) => a + b, 0));
  const means = sums.map((sum, i) => sum / rows[i].length);
  const variances = rows.map((row, i) => average(row.map((value) => (value - means[i]) ** 2)));
  return { sum: average(sums), mean: average(means), variance: average(variances) };
}

/**
 * How spread the weights over the turns are: entropy −Σ w ln w in nats, and the number of credited turns exp(entropy).
 */
export function weightStatistics(weights: readonly Float64Array[]): { entropy: number; effectiveTurns: number } {
  const entropies = weights
    .filter((row) => row.length > 0)
    .map((row) => row.reduce((sum, w) => (w > 0 ? sum - w * Math.log(w) : sum), 0));
  return { entropy: average(entropies), effectiveTurns: average(entropies.map(Math.exp)) };
}

export interface Proportion {
  readonly share: number;
  /** Bounds of the interval; 0 and 1 when there were no trials. */
  readonly low: number;
  readonly high: number;
  readonly trials: number;
}

/** Wilson's score interval for a proportion; 95 % by default. */
export function wilson(successes: number, trials: number, z = 1.959963984540054): Proportion {
  if (trials === 0) return { share: Number.NaN, low: 0, high: 1, trials };
  const share = successes / trials;
  const centre = share + z ** 2 / (2 * trials);
  const margin = z * Math.sqrt((share * (1 - share)) / trials + (z / (2 * trials)) ** 2);
  const scale = 1 + z ** 2 / trials;
  return { share, low: (centre - margin) / scale, high: (centre + margin) / scale, trials };
}

/**
 * Credit against the truth: how often the turn with the largest value is the truly useful one, over the conversations
 * that have a useful turn and values for their turns. Turns that tie for the largest share the success, so equal values
 * score as chance does. Values are turn rewards, weights, sums, or lengths for a baseline.
 */
export function alignment(
  turnValues: readonly ArrayLike<number>[],
  usefulTurns: readonly (number | undefined)[],
): Proportion {
  let successes = 0;
  let trials = 0;
  turnValues.forEach((values, i) => {
    const useful = usefulTurns[i];
    if (useful === undefined || values.length === 0) return;
    const largest = Math.max(...Array.from(values));
    trials++;
    if (values[useful] === largest) successes += 1 / Array.from(values).filter((value) => value === largest).length;
  });
  return wilson(successes, trials);
}

/** Mean; NaN of nothing. */
function average(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}
