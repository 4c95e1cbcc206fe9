import { record, wideGradient } from "../autograd.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels, wide } from "./fused.js";
import { linear } from "./linear.js";

export interface LogprobAndEntropy {
  /** [tokens]: natural log-probability of each row's target. */
  readonly logprobs: Tensor;
  /** [tokens]: entropy of each row's distribution, in nats. */
  readonly entropy: Tensor;
}

/**
 * Language-model head, log-probability of the targets and entropy in one, without keeping tokens × vocabulary:
 * z = hidden·weightᵀ/temperature; logprobs = z[target] − logsumexp(z); entropy = logsumexp(z) − Σ softmax(z)·z.
 * hidden [tokens, d], weight [vocabulary, d], targets [tokens] (i32). Results are f32 (f64 for f64).
 */
export function linearLogprob(hidden: Tensor, weight: Tensor, targets: Tensor, temperature = 1): LogprobAndEntropy {
  alive("linearLogprob", hidden, weight, targets);
  const [tokens, width] = hidden.shape;
  const fits = hidden.rank === 2 && weight.rank === 2 && weight.shape[1] === width && targets.size === tokens;
  if (!fits || weight.dtype !== hidden.dtype || targets.dtype !== "i32") {
    throw new Error(
      `linearLogprob: hidden ${hidden.dtype} ${show(hidden.shape)}, weight ${weight.dtype} ${show(weight.shape)}, ` +
        `targets ${targets.dtype} ${show(targets.shape)}; it needs [tokens, d], [vocabulary, d], i32 [tokens]`,
    );
  }
  if (!(temperature > 0)) throw new Error(`linearLogprob: temperature ${temperature} must be above 0`);
  const kernels = fusedKernels(hidden, "linearLogprob", "linearLogprobBackward");
  if (!kernels) return linearLogprobComposed(hidden, weight, targets, temperature);
  const out = kernels.linearLogprob(hidden, weight, targets, temperature);
  const [logprobs, entropy, lse] = [out.logprobs, out.entropy, out.lse].map((storage) => fresh(storage, [tokens]));
  record(
    "linearLogprob",
    [hidden, weight],
    [logprobs, entropy],
    [hidden, weight, targets, entropy, lse],
    ([dLogprobs, dEntropy]) => {
      const zero = () => fresh(hidden.backend.fill(wide(hidden), tokens, 0), [tokens]);
      const { dHidden, dWeight } = kernels.linearLogprobBackward(
        dLogprobs ?? zero(),
        dEntropy ?? zero(),
        hidden,
        weight,
        targets,
        entropy,
        lse,
        temperature,
        fusedKernels(hidden, "matmulWide") && weight.requiresGrad ? weight.grad : undefined,
      );
      return [fresh(dHidden, hidden.shape), wideGradient(weight, dWeight)];
    },
  );
  return { logprobs, entropy };
}

export function linearLogprobComposed(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  temperature = 1,
): LogprobAndEntropy {
  const logp = linear(hidden, weight)
    .to(wide(hidden))
    .mul(1 / temperature)
    .logSoftmax();
  return { logprobs: logp.pick(targets), entropy: logp.exp().mul(logp).sum(-1).neg() };
}
