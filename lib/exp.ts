/*
 * e^x several times as fast as Math.exp, which V8 computes in portable code: with i = 64·x cut to a whole number,
 * e^x = e^(i/64)·e^(x − i/64), the first from a table and the second by its series up to the fourth power.
 */
const LOWEST = -746;
const HIGHEST = 710;
const START = 64 * LOWEST;
/** From 0 below the smallest double to infinity above the largest. */
const powers = Float64Array.from({ length: 64 * HIGHEST - START + 1 }, (_, i) => Math.exp((START + i) / 64));

/**
 * e^x with a relative error below 8e-12 (where the result is a normal number), a 7,000th of what an f32
 * rounds off. What lies outside the table is clamped to its ends, where 0 and infinity are: a loop around early returns of
 * constants takes twice as long.
 */
export function fastExp(x: number): number {
  const clamped = x < LOWEST ? LOWEST : x > HIGHEST ? HIGHEST : x;
  const i = (clamped * 64) | 0;
  const r = clamped - i * (1 / 64);
  const square = r * r;
  return powers[i - START] * (1 + r + square * (1 / 2 + r * (1 / 6) + square * (1 / 24)));
}
