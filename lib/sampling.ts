import { InputError } from "./errors.js";
import { fastExp } from "./exp.js";

/** How a distribution is reshaped and cut before a token is drawn from it. */
export interface Sampling {
  /** Logits are divided by it; 0 takes the most likely token. */
  readonly temperature: number;
  /** Keeps the tokens whose logit is at least the `topK`-th largest. Default 0: all. */
  readonly topK?: number;
  /** Keeps the most likely tokens, as many as it takes to hold this share of the probability. Default 1: all. */
  readonly topP?: number;
  /** Keeps the tokens with at least this share of the most likely token's probability. Default 0: all. */
  readonly minP?: number;
}

const rules: Readonly<Record<keyof Sampling, readonly [holds: (value: number) => boolean, needed: string]>> = {
  temperature: [(value) => value >= 0 && value < Number.POSITIVE_INFINITY, "a finite number of at least 0"],
  topK: [(value) => Number.isInteger(value) && value >= 0, "a whole number of at least 0, where 0 keeps all"],
  topP: [(value) => value > 0 && value <= 1, "above 0 and at most 1, where 1 keeps all"],
  minP: [(value) => value >= 0 && value <= 1, "from 0, which keeps all, to 1"],
};

/** @throws InputError where a value lies outside its range or is not a number. */
export function checkSampling(sampling: Sampling): void {
  for (const [name, [holds, needed]] of Object.entries(rules)) {
    const value = sampling[name as keyof Sampling];
    if (value !== undefined && !holds(value)) throw new InputError(`${name} is ${value}; it must be ${needed}`);
  }
}

/**
 * The smallest logit that the filters keep: a token takes part if its logit is at least this, so of equal tokens all are
 * kept or none. The filters apply in the order top-k, top-p (of what top-k kept), min-p; the largest logit always stays.
 *
 * A token's mass is ⌊2³⁵·exp((logit − largest)/temperature)⌋ with the exponential of lib/exp.ts: sums of up to 2¹⁸ of them
 * are exact, so that no order of addition matters. Top-p keeps the fewest values whose mass is at least topP of the total
 * in f64; min-p compares (logit − largest)/temperature with log(minP).
 *
 * @param logits holds the `count` logits of one row from index `from`; −∞ is allowed, NaN and +∞ are not
 */
export function lowestKept(
  logits: Float32Array | Float64Array,
  from: number,
  count: number,
  { temperature, topK = 0, topP = 1, minP = 0 }: Sampling,
): number {
  let lowest = Number.NEGATIVE_INFINITY;
  const cutsRank = topK > 0 && topK < count;
  if (temperature === 0 || !(cutsRank || topP < 1 || minP > 0)) return lowest;
  const rising = logits.slice(from, from + count).sort();
  const largest = rising[count - 1];
  if (cutsRank) lowest = rising[count - topK];
  if (topP < 1) {
    const mass = (i: number) => Math.floor(2 ** 35 * fastExp((rising[i] - largest) / temperature));
    let total = 0;
    for (let i = count - 1; i >= 0 && rising[i] >= lowest; i--) total += mass(i);
    let kept = 0;
    for (let i = count - 1; kept < topP * total; i--) {
      kept += mass(i);
      lowest = rising[i];
    }
  }
  if (minP > 0) {
    const least = Math.log(minP);
    lowest = rising.find((logit) => logit >= lowest && (logit - largest) / temperature >= least) ?? largest;
  }
  return lowest;
}
