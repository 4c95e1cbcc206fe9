import type { Rotation } from "../backend/backend.js";
import { sameShape, show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { fusedKernels } from "./fused.js";
import { checkLayout, fusedWidth } from "./heads.js";
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
 * @param keepsAll keys and values count in the result too, as `attention` needs them
 */
export function qkvToCache(
  x: Tensor,
  weights: QkvWeights,
  { positions, rows }: Placement,
  rotation: Rotation,
  cache: Tensor,
  keepsAll = false,
): Tensor {
  const { norm, eps, weight, bias, headNorms } = weights;
  alive("qkvToCache", x, norm, weight, positions, rows, cache, ...(bias ? [bias] : []));
  checkLayout("qkvToCache", rotation);
  checkShapes({ x, norm, weight, bias, cache }, { positions, rows }, rotation);
  if (keepsAll) return placed(projected(x, weights, rotation), { positions, rows }, rotation, cache);
  const width = fusedWidth(rotation);
  if (!headNorms) {
    const kernels = fusedKernels(x, "qkvToCache");
    const y = kernels?.qkvToCache(x, { norm, eps, weight, bias }, { positions, rows }, rotation, cache);
    if (y) {
      cache.storage.version++;
      return fresh(y, [x.shape[0], width]);
    }
  }
  const qkv = projected(x, weights, rotation);
  const kernels = fusedKernels(x, "ropeToCache");
  if (!kernels) return placed(qkv, { positions, rows }, rotation, cache);
  const y = kernels.ropeToCache(qkv, { positions, rows }, rotation, cache);
  cache.storage.version++;
  return fresh(y, [x.shape[0], width]);
}

/** Throws unless all fit together; the rows themselves are checked where they are written. */
function checkShapes(
  { bias, ...given }: Readonly<Record<"x" | "norm" | "weight" | "cache", Tensor>> & { readonly bias?: Tensor },
  placement: Placement,
  rotation: Rotation,
): void {
  const { x, norm, weight, cache } = given;
  const [tokens, inputs] = x.shape;
  const width = fusedWidth(rotation);
  const fits =
    x.rank === 2 &&
    sameShape(norm.shape, [inputs]) &&
    sameShape(weight.shape, [width, inputs]) &&
    (!bias || sameShape(bias.shape, [width])) &&
    cache.rank === 2 &&
    cache.shape[1] === 2 * rotation.kvHeads * rotation.headDim &&
    Object.values(placement).every(({ shape, dtype }) => sameShape(shape, [tokens]) && dtype === "i32");
  const terms = { ...given, ...(bias && { bias }) };
  if (fits && Object.values(terms).every(({ dtype }) => dtype === x.dtype)) return;
  const said = Object.entries({ ...terms, ...placement }).map(([name, t]) => `${name} ${t.dtype} ${show(t.shape)}`);
  throw new Error(
    `qkvToCache: ${said.join(", ")}; it needs [tokens, in], [in], [width, in], bias [width] of one dtype, the cache ` +
      `[rows, 2·kvHeads·headDim], positions and rows i32 [tokens], where width is ${width}`,
  );
}

export function qkvToCacheComposed(
  x: Tensor,
  weights: QkvWeights,
  placement: Placement,
  rotation: Rotation,
  cache: Tensor,
): Tensor {
  return placed(projected(x, weights, rotation), placement, rotation, cache);
}

function projected(x: Tensor, { norm, eps, weight, bias, headNorms }: QkvWeights, rotation: Rotation): Tensor {
  const qkv = linear(rmsNorm(x, norm, eps), weight, { bias });
  return headNorms ? qkNorm(qkv, headNorms.q, headNorms.k, rotation, eps) : qkv;
}

function placed(x: Tensor, { positions, rows }: Placement, rotation: Rotation, cache: Tensor): Tensor {
  const { heads, kvHeads, headDim } = rotation;
  const qkv = rope(x, positions, rotation);
  setRows(cache, rows, qkv.slice(1, heads * headDim, (heads + 2 * kvHeads) * headDim));
  return qkv;
}
