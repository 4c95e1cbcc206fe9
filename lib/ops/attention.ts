import { record } from "../autograd.js";
import type { HeadLayout } from "../backend/backend.js";
import { alive, fresh, type Tensor, tensor } from "../tensor.js";
import { fusedKernels, wide } from "./fused.js";
import { checkFused, splitHeads } from "./heads.js";
import { broadcastTo } from "./sum.js";
import { where } from "./where.js";

/**
 * Causal self-attention over packed sequences: softmax(q·kᵀ/√headDim)·v inside each sequence.
 * x [tokens, (heads + 2·kvHeads)·headDim]; sequence s owns the rows offsets[s] … offsets[s+1]−1 →
 * [tokens, heads·headDim]. Query head h reads key and value head ⌊h·kvHeads/heads⌋.
 */
export function attention(x: Tensor, offsets: Int32Array, layout: HeadLayout): Tensor {
  alive("attention", x);
  checkFused("attention", x, layout);
  checkOffsets("attention", offsets, x.shape[0]);
  const kernels = fusedKernels(x, "attention", "attentionBackward");
  if (!kernels) return attentionComposed(x, offsets, layout);
  const out = kernels.attention(x, offsets, layout);
  const y = fresh(out.y, [x.shape[0], layout.heads * layout.headDim]);
  const lse = fresh(out.lse, [x.shape[0], layout.heads]);
  record("attention", [x], y, [x, y, lse], ([dy]) => [
    fresh(kernels.attentionBackward(dy!, x, y, lse, offsets, layout), x.shape),
  ]);
  return y;
}

/** Throws unless offsets rise from 0 to the number of tokens. */
export function checkOffsets(op: string, offsets: Int32Array, tokens: number): void {
  const rising = offsets.every((offset, i) => (i === 0 ? offset === 0 : offset >= offsets[i - 1]));
  if (offsets.length < 1 || !rising || offsets.at(-1) !== tokens) {
    throw new Error(
      `${op}: offsets must rise from 0 to the number of tokens, ${tokens}; they end at ${offsets.at(-1)}`,
    );
  }
}

/** Pads every sequence to the longest, masks, and computes one product a head. */
export function attentionComposed(x: Tensor, offsets: Int32Array, layout: HeadLayout): Tensor {
  const { heads, kvHeads, headDim } = layout;
  const sequences = offsets.length - 1;
  const lengths = Array.from({ length: sequences }, (_, s) => offsets[s + 1] - offsets[s]);
  const longest = Math.max(0, ...lengths);
  const { backend } = x;
  const padded = new Int32Array(sequences * longest).fill(-1);
  const packed = new Int32Array(x.shape[0]);
  lengths.forEach((length, s) => {
    for (let i = 0; i < length; i++) {
      padded[s * longest + i] = offsets[s] + i;
      packed[offsets[s] + i] = s * longest + i;
    }
  });
  const [q, k, v] = splitHeads(x.gatherRows(tensor(padded, { backend, dtype: "i32" })), layout);
  const byHead = (part: Tensor, count: number) =>
    part
      .reshape([sequences, longest, count, headDim])
      .permute([0, 2, 1, 3])
      .reshape([sequences * count, longest, headDim]);
  const shared = (part: Tensor) => repeatHeads(byHead(part, kvHeads), heads / kvHeads);
  const visible = Uint8Array.from({ length: longest * longest }, (_, i) =>
    i % longest <= Math.floor(i / longest) ? 1 : 0,
  );
  const mask = tensor(visible, { backend, dtype: "bool", shape: [longest, longest] });
  return maskedAttention(byHead(q, heads), shared(k), shared(v), mask)
    .reshape([sequences, heads, longest, headDim])
    .permute([0, 2, 1, 3])
    .reshape([sequences * longest, heads * headDim])
    .gatherRows(tensor(packed, { backend, dtype: "i32" }));
}

/** Each key or value head of [n, length, headDim], `times` times in a row. */
export function repeatHeads(x: Tensor, times: number): Tensor {
  if (times === 1) return x;
  const [n, length, headDim] = x.shape;
  return broadcastTo(x.reshape([n, 1, length, headDim]), [n, times, length, headDim]).reshape([
    n * times,
    length,
    headDim,
  ]);
}

/** softmax(q·kᵀ/√d where mask, else nothing)·v for q [n, l, d], k and v [n, s, d], mask broadcasting to [n, l, s]. */
export function maskedAttention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor): Tensor {
  const dtype = wide(q);
  const scores = q
    .matmul(k, { transposeB: true })
    .to(dtype)
    .mul(q.shape[2] ** -0.5);
  const hidden = tensor(-1e30, { backend: q.backend, dtype });
  return where(mask, scores, hidden).softmax().to(q.dtype).matmul(v);
}
