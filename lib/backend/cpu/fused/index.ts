import type { FusedKernels } from "../../backend.js";
import { adamwKernels } from "./adamw.js";
import { attentionKernels } from "./attention.js";
import type { HostMemory } from "./host.js";
import { linearLogprobKernels } from "./linearLogprob.js";
import { qkNormKernels, rmsNormKernels } from "./rmsNorm.js";
import { ropeKernels } from "./rope.js";
import { swigluKernels } from "./swiglu.js";

/** Every fused kernel, in TypeScript, over memory that the host can reach. */
export function hostKernels(host: HostMemory): Partial<FusedKernels> {
  return {
    ...rmsNormKernels(host),
    ...qkNormKernels(host),
    ...ropeKernels(host),
    ...swigluKernels(host),
    ...attentionKernels(host),
    ...linearLogprobKernels(host),
    ...adamwKernels(host),
  };
}
