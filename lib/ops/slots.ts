import type { Draws, HeadLayout, PagedSlots, SlotState } from "../backend/backend.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { checkFused } from "./heads.js";

type Decoding = "planSlots" | "slotAttention" | "advanceSlots" | "sampleLogits" | "record";

function kernel<K extends Decoding>(x: Tensor, name: K) {
  const found = x.backend.fused[name];
  if (!found) throw new Error(`${name}: ${x.backend.name} cannot decode with its state on the device`);
  return found;
}

/** Lays out the attention of a step; once before its layers. */
export function planSlots(x: Tensor, slots: PagedSlots, layout: HeadLayout): void {
  kernel(x, "planSlots")(slots, layout);
}

/** `pagedAttention` of one new token in every slot: x [slots, (heads + 2·kvHeads)·headDim] → [slots, heads·headDim]. */
export function slotAttention(x: Tensor, cache: Tensor, slots: PagedSlots, layout: HeadLayout): Tensor {
  alive("slotAttention", x, cache);
  checkFused("slotAttention", x, layout);
  const fits = cache.rank === 2 && cache.shape[1] === 2 * layout.kvHeads * layout.headDim && cache.dtype === x.dtype;
  if (x.shape[0] !== slots.table.shape[0] || !fits) {
    throw new Error(
      `slotAttention: x ${x.dtype} ${show(x.shape)}, cache ${cache.dtype} ${show(cache.shape)}, ` +
        `${slots.table.shape[0]} slots; it needs a row of x a slot and a cache [rows, 2·kvHeads·headDim] of x's dtype`,
    );
  }
  const y = kernel(x, "slotAttention")(x, cache, slots, layout);
  return fresh(y, [x.shape[0], layout.heads * layout.headDim]);
}

/** *In place*: every slot takes the token it drew (i32 [slots]) as its next input, or ends. */
export function advanceSlots(drawn: Tensor, slots: PagedSlots, state: SlotState): void {
  kernel(drawn, "advanceSlots")(drawn, slots, state);
}

/** A token (i32 [rows]) drawn from each row of logits [rows, vocabulary] (f32), and its log-probability (f32 [rows]). */
export function sampleLogits(logits: Tensor, draws: Draws): { ids: Tensor; logprobs: Tensor } {
  alive("sampleLogits", logits);
  if (logits.rank !== 2 || logits.dtype !== "f32" || draws.site.shape[0] !== logits.shape[0]) {
    throw new Error(`sampleLogits: logits ${logits.dtype} ${show(logits.shape)} for ${draws.site.shape[0]} draws`);
  }
  const { ids, logprobs } = kernel(logits, "sampleLogits")(logits, draws);
  const shape = [logits.shape[0]];
  return { ids: fresh(ids, shape), logprobs: fresh(logprobs, shape) };
}
