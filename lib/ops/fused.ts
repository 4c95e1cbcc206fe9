import type { FusedKernels } from "../backend/backend.js";
import type { Tensor } from "../tensor.js";

/**
 * The backend's kernel for a fused operation, or undefined where its composed twin has to run.
 *
 * Every fused operation is a pair: `NAME` picks the kernel if the device has one, `NAMEComposed` does the same from
 * primitives and is the oracle that the kernel is tested against.
 */
export function fusedKernels<K extends keyof FusedKernels>(
  x: Tensor,
  ...names: readonly K[]
): Pick<FusedKernels, K> | undefined {
  const kernels = x.backend.fused;
  return names.every((name) => kernels[name]) ? (kernels as Pick<FusedKernels, K>) : undefined;
}

/** f32, or f64 for f64: where statistics and log-probabilities are computed. */
export function wide(x: Tensor): "f32" | "f64" {
  return x.dtype === "f64" ? "f64" : "f32";
}
