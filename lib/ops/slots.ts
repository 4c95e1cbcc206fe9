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

/** *In place*: every slot takes the token it drew (i32 [slots], or what `sampleLogits` gave) as its next input, or ends. */
export function advanceSlots(drawn: Tensor, slots: PagedSlots, state: SlotState): void {
  kernel(drawn, "advanceSlots")(drawn, slots, state);
}

/**
 * A token drawn from each row of logits [rows, vocabulary] (f32): i32 [2, rows], the ids and the bits of their
 * log-probabilities in f32. `readDrawn` brings both to the host in one copy.
 */
export function sampleLogits(logits: Tensor, draws: Draws): Tensor {
  alive("sampleLogits", logits);
  if (logits.rank !== 2 || logits.dtype !== "f32" || draws.site.shape[0] !== logits.shape[0]) {
    throw new Error(`sampleLogits: logits ${logits.dtype} ${show(logits.shape)} for ${draws.site.shape[0]} draws`);
  }
  return fresh(kernel(logits, "sampleLogits")(logits, draws), [2, logits.shape[0]]);
}

/** What `sampleLogits` drew, by row; id −1 where there was nothing to draw. The copy is enqueued before this returns. */
export async function readDrawn(drawn: Tensor): Promise<{ ids: Int32Array; logprobs: Float32Array }> {
  const [, rows] = drawn.shape;
  const ids = (await drawn.data()) as Int32Array;
  return { ids: ids.slice(0, rows), logprobs: new Float32Array(ids.slice(rows).buffer) };
}
