import type { HeadLayout, PagedContext } from "../backend/backend.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor, tensor } from "../tensor.js";
import { checkOffsets, maskedAttention, repeatHeads } from "./attention.js";
import { fusedKernels } from "./fused.js";
import { checkFused, splitHeads } from "./heads.js";

/**
 * Causal attention of the newest tokens to everything their sequence has in a paged KV cache (which holds the newest
 * ones too). x [tokens, (heads + 2·kvHeads)·headDim], cache [rows, 2·kvHeads·headDim] = [k | v] →
 * [tokens, heads·headDim]. No gradient.
 */
export function pagedAttention(x: Tensor, cache: Tensor, context: PagedContext, layout: HeadLayout): Tensor {
  alive("pagedAttention", x, cache);
  checkFused("pagedAttention", x, layout);
  checkOffsets("pagedAttention", context.offsets, x.shape[0]);
  if (cache.rank !== 2 || cache.shape[1] !== 2 * layout.kvHeads * layout.headDim || cache.dtype !== x.dtype) {
    throw new Error(
      `pagedAttention: cache ${cache.dtype} ${show(cache.shape)} does not fit x ${x.dtype} ${show(x.shape)}`,
    );
  }
  checkContext(context);
  const kernels = fusedKernels(x, "pagedAttention");
  if (!kernels) return pagedAttentionComposed(x, cache, context, layout);
  return fresh(kernels.pagedAttention(x, cache, context, layout), [x.shape[0], layout.heads * layout.headDim]);
}

/** Throws unless every sequence has at least its new tokens, and pages for all of them. */
function checkContext({ offsets, lengths, pages, pageSize }: PagedContext): void {
  if (offsets.length !== lengths.length + 1 || pages.length !== lengths.length) {
    throw new Error(
      `pagedAttention: ${offsets.length} offsets, ${lengths.length} lengths, ${pages.length} page lists; ` +
        "n sequences have n + 1 offsets",
    );
  }
  lengths.forEach((length, s) => {
    const news = offsets[s + 1] - offsets[s];
    const room = pages[s].length * pageSize;
    if (length < news || length > room) {
      throw new Error(
        `pagedAttention: sequence ${s} has ${length} tokens, of them ${news} new, ` +
          `and room for ${room} on ${pages[s].length} page(s); lengths count the new ones too`,
      );
    }
  });
}

/** Cache row of token `position` of sequence `s`. */
export function cacheRow({ pages, pageSize }: PagedContext, s: number, position: number): number {
  return pages[s][Math.floor(position / pageSize)] * pageSize + (position % pageSize);
}

export function pagedAttentionComposed(x: Tensor, cache: Tensor, context: PagedContext, layout: HeadLayout): Tensor {
  const { heads, kvHeads, headDim } = layout;
  const { offsets, lengths } = context;
  const { backend } = x;
  const sequences = lengths.length;
  const news = Array.from(lengths, (_, s) => offsets[s + 1] - offsets[s]);
  const [longest, newest] = [Math.max(0, ...lengths), Math.max(0, ...news)];
  const queryRows = new Int32Array(sequences * newest).fill(-1);
  const keyRows = new Int32Array(sequences * longest).fill(-1);
  const packed = new Int32Array(x.shape[0]);
  const visible = new Uint8Array(sequences * newest * longest);
  for (let s = 0; s < sequences; s++) {
    for (let i = 0; i < news[s]; i++) {
      queryRows[s * newest + i] = offsets[s] + i;
      packed[offsets[s] + i] = s * newest + i;
      visible.fill(1, (s * newest + i) * longest, (s * newest + i) * longest + lengths[s] - news[s] + i + 1);
    }
    for (let j = 0; j < lengths[s]; j++) keyRows[s * longest + j] = cacheRow(context, s, j);
  }
  const index = (rows: Int32Array) => tensor(rows, { backend, dtype: "i32" });
  const byHead = (part: Tensor, count: number, length: number) =>
    part
      .reshape([sequences, length, count, headDim])
      .permute([0, 2, 1, 3])
      .reshape([sequences * count, length, headDim]);
  const [q] = splitHeads(x.gatherRows(index(queryRows)), layout);
  const keysAndValues = cache.gatherRows(index(keyRows)).reshape([-1, 2 * kvHeads, headDim]);
  const shared = (from: number) =>
    repeatHeads(byHead(keysAndValues.slice(1, from, from + kvHeads), kvHeads, longest), heads / kvHeads);
  const mask = tensor(visible, { backend, dtype: "bool", shape: [sequences, 1, newest, longest] })
    .to("f32")
    .add(tensor(new Float32Array(heads), { backend, shape: [heads, 1, 1] }))
    .reshape([sequences * heads, newest, longest])
    .greater(0);
  return maskedAttention(byHead(q, heads, newest), shared(0), shared(kvHeads), mask)
    .reshape([sequences, heads, newest, headDim])
    .permute([0, 2, 1, 3])
    .reshape([sequences * newest, heads * headDim])
    .gatherRows(index(packed));
}
