import { fastExp } from "./exp.js";

/** The distribution softmax(scale·logits) of one row, as far as log-probabilities and entropy need it. In f64. */
export interface RowStatistics {
  /** The largest logit. */
  readonly best: number;
  /** log Σ exp(scale·(logit − best)). */
  readonly log: number;
  /** In nats. */
  readonly entropy: number;
}

/** Statistics of the `count` logits from `from`, summed in their order: the same bits wherever they are computed. */
export function rowStatistics(logits: ArrayLike<number>, from: number, count: number, scale: number): RowStatistics {
  let best = Number.NEGATIVE_INFINITY;
  for (let j = from; j < from + count; j++) if (logits[j] > best) best = logits[j];
  let sum = 0;
  let weighted = 0;
  for (let j = from; j < from + count; j++) {
    const x = scale * (logits[j] - best);
    const e = fastExp(x);
    sum += e;
    // −∞ has no part in the entropy; 0·∞ would be NaN.
    if (e > 0) weighted += e * x;
  }
  const log = Math.log(sum);
  return { best, log, entropy: log - weighted / sum };
}

/** Natural log-probability of a row's token with this logit. */
export function logprobOf(logit: number, { best, log }: RowStatistics, scale: number): number {
  return scale * (logit - best) - log;
}

/** Places, from 0, of the `k` largest of a row's `count` logits, the largest first; of equal ones the first comes first. */
export function largestLogits(logits: ArrayLike<number>, from: number, count: number, k: number): number[] {
  const best: number[] = [];
  if (k <= 0) return best;
  for (let j = 0; j < count; j++) {
    const logit = logits[from + j];
    if (best.length === k && !(logit > logits[from + best[k - 1]])) continue;
    let at = best.length;
    while (at > 0 && logit > logits[from + best[at - 1]]) at--;
    best.splice(at, 0, j);
    if (best.length > k) best.pop();
  }
  return best;
}
