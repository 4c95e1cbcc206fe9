import { countTokens, type TokenRange } from "./turns.js";

/** How advantages are brought to a common scale over the batch. */
export type Normalisation =
  /** Divided by their root mean square: signs stay. */
  | "rms"
  /** Mean subtracted, then divided by the standard deviation, as the reference implementation. */
  | "whiten"
  | "none";

const EPSILON = 1e-8;

/**
 * The affine map x ↦ (x − mean)·scale that normalises token-level values over the sampled tokens of all rows, N in
 * number:
 *
 *     whiten:  (x − mean) / sqrt(var + 1e-8), var with Bessel's correction
 *     rms:     x / sqrt(Σ x² / N + 1e-8)
 *
 * Fewer than two sampled tokens give no scale: everything maps to 0 (the reference raises).
 */
export function normaliser(
  values: readonly Float64Array[],
  turns: readonly (readonly TokenRange[])[],
  normalisation: Normalisation,
): { mean: number; scale: number } {
  if (normalisation === "none") return { mean: 0, scale: 1 };
  const count = turns.reduce((sum, row) => sum + countTokens(row), 0);
  if (count < 2) return { mean: 0, scale: 0 };
  const mean = normalisation === "whiten" ? sumPowers(values, turns, 0, 1) / count : 0;
  const squares = sumPowers(values, turns, mean, 2);
  const variance = squares / (normalisation === "whiten" ? count - 1 : count);
  return { mean, scale: 1 / Math.sqrt(variance + EPSILON) };
}

/** The reference's `masked_whiten`: normalised values at every position, those outside the turns included. */
export function whiten(values: readonly Float64Array[], turns: readonly (readonly TokenRange[])[]): Float64Array[] {
  const { mean, scale } = normaliser(values, turns, "whiten");
  return values.map((row) => row.map((x) => (x - mean) * scale));
}

/** target[t] = (values[t] − mean)·scale + offset in the given ranges. */
export function affine(
  target: Float64Array,
  values: Float64Array,
  ranges: readonly TokenRange[],
  mean: number,
  scale: number,
  offset = 0,
): void {
  for (const { start, end } of ranges) {
    for (let t = start; t < end; t++) target[t] = (values[t] - mean) * scale + offset;
  }
}

/** Σ (x − mean)^power over the sampled tokens. */
export function sumPowers(
  values: readonly Float64Array[],
  turns: readonly (readonly TokenRange[])[],
  mean: number,
  power: 1 | 2,
): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    const row = values[i];
    for (const { start, end } of turns[i]) {
      for (let t = start; t < end; t++) {
        const offset = row[t] - mean;
        sum += power === 2 ? offset * offset : offset;
      }
    }
  }
  return sum;
}
