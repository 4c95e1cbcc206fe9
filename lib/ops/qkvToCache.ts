import type { Rotation } from "../backend/backend.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";
import { linear } from "./linear.js";
import { qkNorm } from "./qkNorm.js";
import { rmsNorm } from "./rmsNorm.js";
import { rope } from "./rope.js";
import { setRows } from "./rows.js";

/** What makes queries, keys and values of a layer's input; width = (heads + 2·kvHeads)·headDim. */
export interface QkvWeights {
  /** [in], of the norm before. */
  readonly norm: Tensor;
  readonly eps: number;
  /** [width, in] */
  readonly weight: Tensor;
  /** [width] */
  readonly bias?: Tensor;
  /** [headDim] each: norms of every query and key head, as in Qwen3. */
  readonly headNorms?: { readonly q: Tensor; readonly k: Tensor };
}

/** Where the newest tokens stand: positions [tokens] (i32) and the rows of the cache (i32, −1 for none) that are theirs. */
export interface Placement {
  readonly positions: Tensor;
  readonly rows: Tensor;
}

/**
 * Norm, projection and rotation of x [tokens, in] → [tokens, width], of which the queries count, and *in place* the keys
 * and values in the cache [rows, 2·kvHeads·headDim]. The bits of the composed form; in one kernel for a few rows. No gradient.
 */
export function qkvToCache(
  x: Tensor,
  weights: QkvWeights,
  { positions, rows }: Placement,
  rotation: Rotation,
  cache: Tensor,
): Tensor {
  const { norm, eps, weight, bias, headNorms } = weights;
  alive("qkvToCache", x, norm, weight, positions, rows, cache, ...(bias ? [bias] : []));
  const sameType = [norm, weight, cache, ...(bias ? [bias] : [])].every(({ dtype }) => dtype === x.dtype);
  const width = (rotation.heads + 2 * rotation.kvHeads) * rotation.headDim;
  const fits = x.rank === 2 && norm.size === x.shape[1] && weight.shape[0] === width && weight.shape[1] === x.shape[1];
  const placed = [positions, rows].every(({ size, dtype }) => size === x.shape[0] && dtype === "i32");
  if (!headNorms && fits && sameType && placed) {
    const kernels = fusedKernels(x, "qkvToCache");
    const y = kernels?.qkvToCache(x, { norm, eps, weight, bias }, { positions, rows }, rotation, cache);
    if (y) {
      cache.storage.version++;
      return fresh(y, [x.shape[0], width]);
    }
  }
  return qkvToCacheComposed(x, weights, { positions, rows }, rotation, cache);
}

export function qkvToCacheComposed(
  x: Tensor,
  { norm, eps, weight, bias, headNorms }: QkvWeights,
  { positions, rows }: Placement,
  rotation: Rotation,
  cache: Tensor,
): Tensor {
  const { heads, kvHeads, headDim } = rotation;
  let qkv = linear(rmsNorm(x, norm, eps), weight, { bias });
  if (headNorms) qkv = qkNorm(qkv, headNorms.q, headNorms.k, rotation, eps);
  qkv = rope(qkv, positions, rotation);
  setRows(cache, rows, qkv.slice(1, heads * headDim, (heads + 2 * kvHeads) * headDim));
  return qkv;
}
