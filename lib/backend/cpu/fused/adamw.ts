import type { AdamwStep, FusedKernels } from "../../backend.js";
import type { Floats } from "../gemm.js";
import type { HostMemory } from "./host.js";

export function adamwKernels(host: HostMemory): Pick<FusedKernels, "adamw"> {
  return {
    adamw(param, master, grad, m, v, step) {
      const g = host.read(grad);
      host.update(master, (w) => host.update(m, (ms) => host.update(v, (vs) => update(w, g, ms, vs, step))));
      if (param.storage === master.storage) return;
      const rounded = param.storage.backend.cast(master, param.storage.dtype);
      param.storage.backend.assign(param, { storage: rounded, offset: 0, shape: param.shape });
      param.storage.backend.free(rounded);
    },
  };
}

function update(
  w: Floats,
  g: Floats,
  m: Floats,
  v: Floats,
  { lr, beta1, beta2, eps, weightDecay, step, gradScale }: AdamwStep,
): void {
  const stepSize = lr / (1 - beta1 ** step);
  const correction = 1 / Math.sqrt(1 - beta2 ** step);
  const keep = 1 - lr * weightDecay;
  for (let i = 0; i < w.length; i++) {
    const gi = g[i] * gradScale;
    m[i] = beta1 * m[i] + (1 - beta1) * gi;
    v[i] = beta2 * v[i] + (1 - beta2) * gi * gi;
    w[i] = keep * w[i] - (stepSize * m[i]) / (Math.sqrt(v[i]) * correction + eps);
  }
}
