import type { FusedKernels } from "../../backend.js";
import type { HostMemory } from "./host.js";

export function adamwKernels(host: HostMemory): Pick<FusedKernels, "adamw"> {
  return {
    adamw(param, master, grad, m, v, { lr, beta1, beta2, eps, weightDecay, step, gradScale }) {
      const g = host.read(grad);
      const stepSize = lr / (1 - beta1 ** step);
      const correction = 1 / Math.sqrt(1 - beta2 ** step);
      const keep = 1 - lr * weightDecay;
      host.update(master, (w) =>
        host.update(m, (ms) =>
          host.update(v, (vs) => {
            for (let i = 0; i < w.length; i++) {
              const gi = g[i] * gradScale;
              ms[i] = beta1 * ms[i] + (1 - beta1) * gi;
              vs[i] = beta2 * vs[i] + (1 - beta2) * gi * gi;
              w[i] = keep * w[i] - (stepSize * ms[i]) / (Math.sqrt(vs[i]) * correction + eps);
            }
          }),
        ),
      );
      if (param.storage === master.storage) return;
      const rounded = param.storage.backend.cast(master, param.storage.dtype);
      param.storage.backend.assign(param, { storage: rounded, offset: 0, shape: param.shape });
      param.storage.backend.free(rounded);
    },
  };
}
