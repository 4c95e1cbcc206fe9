import { record } from "../autograd.js";
import { around, normalizeAxis, show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";
import { slice } from "./slice.js";

/** Joins tensors along one axis; all other extents must be equal. */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  alive("concat", ...parts);
  if (parts.length === 0) throw new Error("concat: it needs at least one tensor");
  const [first] = parts;
  const along = normalizeAxis("concat", axis, first.shape);
  for (const part of parts) {
    const fits = part.rank === first.rank && part.shape.every((extent, i) => i === along || extent === first.shape[i]);
    if (!fits || part.dtype !== first.dtype) {
      throw new Error(
        `concat: ${part.dtype} ${show(part.shape)} does not join ${first.dtype} ${show(first.shape)} along axis ${axis}`,
      );
    }
  }
  const lengths = parts.map((part) => part.shape[along]);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const { outer, inner } = around(first.shape, along);
  const y = fresh(first.backend.concat(parts, outer, lengths, inner), first.shape.with(along, total));
  record("concat", parts, y, [], ([dy]) => {
    let start = 0;
    return lengths.map((length) => slice(dy!, along, start, (start += length)));
  });
  return y;
}
