/** Statistics of repeated samples per prompt, and how sure they are over prompts. */

/**
 * Expected largest of `k` values drawn with replacement: Σ x₍ᵢ₎·((i/N)ᵏ − ((i−1)/N)ᵏ) over the values in rising order.
 * Exact, where the reference implementation draws 1000 times.
 */
export function bestOf(values: readonly number[], k: number): number {
  const n = values.length;
  return [...values]
    .sort((a, b) => a - b)
    .reduce((sum, value, i) => sum + value * (((i + 1) / n) ** k - (i / n) ** k), 0);
}

/** Expected smallest of `k` values drawn with replacement. */
export function worstOf(values: readonly number[], k: number): number {
  return -bestOf(
    values.map((value) => -value),
    k,
  );
}

/** The k of best@k and worst@k for n samples: 2, 4, 8, … below n, and n itself; none for a single sample. */
export function drawSizes(n: number): number[] {
  const sizes: number[] = [];
  for (let k = 2; k < n; k *= 2) sizes.push(k);
  return n > 1 ? [...sizes, n] : sizes;
}

/** A mean, and the bounds between which it lies with 95 % confidence. */
export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** Mean of independent values with Student's interval; the whole line where there are fewer than two. */
export function meanInterval(values: readonly number[]): Interval {
  const n = values.length;
  const mean = average(values);
  if (n < 2) return { mean, low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY };
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const margin = studentQuantile(n - 1) * Math.sqrt(variance / n);
  return { mean, low: mean - margin, high: mean + margin };
}

const Z = 1.959963984540054;

/** The 0.975 quantile of Student's t; exact for 1 and 2 degrees of freedom, else Cornish and Fisher's series, within 0.01. */
export function studentQuantile(degrees: number): number {
  if (degrees === 1) return 12.706204736432095;
  if (degrees === 2) return 4.302652729696142;
  const z2 = Z * Z;
  const terms = [
    (z2 + 1) / 4,
    ((5 * z2 + 16) * z2 + 3) / 96,
    (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384,
    ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160,
  ];
  return Z * terms.reduce((sum, term, i) => sum + term / degrees ** (i + 1), 1);
}

/** Mean; NaN of nothing. */
export function average(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** Population standard deviation. */
export function deviation(values: readonly number[]): number {
  const mean = average(values);
  return Math.sqrt(average(values.map((value) => (value - mean) ** 2)));
}
