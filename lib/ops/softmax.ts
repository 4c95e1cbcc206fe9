import type { Tensor } from "../tensor.js";
import { max } from "./max.js";

/** exp(x) / Σ exp(x) along the last axis, computed from x − max(x). */
export function softmax(x: Tensor): Tensor {
  return logSoftmax(x).exp();
}

/** log softmax along the last axis: x − max(x) − log Σ exp(x − max(x)). */
export function logSoftmax(x: Tensor): Tensor {
  const shifted = x.sub(max(x.detach(), -1, true));
  return shifted.sub(shifted.exp().sum(-1, true).log());
}
