import { InputError } from "../../lib/errors.js";
import { countTokens, type TokenRange } from "./turns.js";

/**
 * How token losses L over a mini-batch become one number, with N_i the sampled tokens of row i (verl's names). The
 * normalisers are those of the mini-batch, whatever its micro-batches; the reference takes them per micro-batch, so
 * that its `token-mean` with one row at a time is in effect `seq-mean-token-mean`.
 */
export type Aggregation =
  /** Σ L / Σ N_i */
  | "token-mean"
  /** mean over rows of Σ L; a row without sampled tokens counts as 0 */
  | "seq-mean-token-sum"
  /** mean over rows of Σ L / N_i; rows without sampled tokens are left out (NaN in the reference) */
  | "seq-mean-token-mean"
  /** Σ L / T with a constant T */
  | "seq-mean-token-sum-norm";

/** The weight of each sampled token of row i, such that the aggregate is Σ_i weight[i]·Σ_t L[i,t]. */
export function aggregationWeights(
  rows: readonly (readonly TokenRange[])[],
  aggregation: Aggregation,
  /** T of `seq-mean-token-sum-norm`, in tokens: the longest response there may be. */
  normLength?: number,
): Float64Array {
  const counts = rows.map(countTokens);
  const total = counts.reduce((a, b) => a + b, 0);
  const sampledRows = counts.filter((count) => count > 0).length;
  if (aggregation === "seq-mean-token-sum-norm" && !(normLength && normLength > 0)) {
    throw new InputError(`aggregation "seq-mean-token-sum-norm" needs a positive normLength, not ${normLength}`);
  }
  const weight: Record<Aggregation, (count: number) => number> = {
    "token-mean": () => 1 / total,
    "seq-mean-token-sum": () => 1 / rows.length,
    "seq-mean-token-mean": (count) => 1 / (sampledRows * count),
    "seq-mean-token-sum-norm": () => 1 / (normLength ?? 1),
  };
  return Float64Array.from(counts, (count) => (count > 0 ? weight[aggregation](count) : 0));
}
