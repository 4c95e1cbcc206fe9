import { fastExp } from "./exp.js";

/** log Σ exp(logits / temperature) of `count` logits from `from`, in f64. */
export function logSumExp(logits: ArrayLike<number>, from: number, count: number, temperature = 1): number {
  let best = Number.NEGATIVE_INFINITY;
  for (let j = from; j < from + count; j++) if (logits[j] > best) best = logits[j];
  let sum = 0;
  for (let j = from; j < from + count; j++) sum += fastExp((logits[j] - best) / temperature);
  return best / temperature + Math.log(sum);
}
