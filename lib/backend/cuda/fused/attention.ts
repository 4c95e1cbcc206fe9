import type { ArrayRef, FusedKernels, HeadLayout } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { workLists } from "../workList.js";
import { attentionHopper } from "./attentionHopper.js";
import { attentionPlain } from "./attentionPlain.js";
import { pagedAttentionKernel } from "./pagedAttention.js";

type AttentionKernels = Pick<FusedKernels, "attention" | "attentionBackward" | "pagedAttention">;

/** Attention: by Hopper's tensor cores for bf16 heads of 64 and 128, else by the kernels that run anywhere. */
export function attentionKernels(context: CudaContext): AttentionKernels {
  const lists = workLists(context.device);
  const [hopper, plain] = [attentionHopper(context, lists), attentionPlain(context, lists)];
  const kernels = (x: ArrayRef, { headDim }: HeadLayout) =>
    context.device.capability === 90 && x.storage.dtype === "bf16" && (headDim === 64 || headDim === 128)
      ? hopper
      : plain;
  return {
    attention: (x, offsets, layout) => kernels(x, layout).attention(x, offsets, layout),
    attentionBackward: (dy, x, y, lse, offsets, layout) =>
      kernels(x, layout).attentionBackward(dy, x, y, lse, offsets, layout),
    ...pagedAttentionKernel(context, lists),
  };
}
