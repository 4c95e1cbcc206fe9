import type { HeadLayout } from "../backend/backend.js";
import { show } from "../shape.js";
import type { Tensor } from "../tensor.js";
import { concat } from "./concat.js";

/** Columns of a fused q, k, v projection. */
export function fusedWidth({ heads, kvHeads, headDim }: HeadLayout): number {
  return (heads + 2 * kvHeads) * headDim;
}

/** Throws unless query heads share k and v evenly and their dimensions pair. */
export function checkLayout(op: string, { heads, kvHeads, headDim }: HeadLayout): void {
  if (heads % kvHeads !== 0 || headDim % 2 !== 0) {
    throw new Error(
      `${op}: ${heads} heads over ${kvHeads} of headDim ${headDim}; heads must divide evenly, headDim be even`,
    );
  }
}

/** Throws unless x is [tokens, (heads + 2·kvHeads)·headDim] for a layout in which query heads share k and v evenly. */
export function checkFused(op: string, x: Tensor, layout: HeadLayout): void {
  const { heads, kvHeads, headDim } = layout;
  checkLayout(op, layout);
  if (x.rank !== 2 || x.shape[1] !== fusedWidth(layout)) {
    throw new Error(`${op}: x ${show(x.shape)} is not [tokens, (${heads} + 2·${kvHeads})·${headDim}]`);
  }
}

/** Cuts a fused projection [tokens, width] into q, k, v of [tokens, heads or kvHeads, headDim]. */
export function splitHeads(x: Tensor, { heads, kvHeads, headDim }: HeadLayout): [q: Tensor, k: Tensor, v: Tensor] {
  const cut = (from: number, count: number) =>
    x.slice(1, from * headDim, (from + count) * headDim).reshape([-1, count, headDim]);
  return [cut(0, heads), cut(heads, kvHeads), cut(heads + kvHeads, kvHeads)];
}

/** The inverse of `splitHeads`. */
export function joinHeads(parts: readonly Tensor[]): Tensor {
  return concat(
    parts.map((part) => part.reshape([part.shape[0], part.shape[1] * part.shape[2]])),
    1,
  );
}
