import { record } from "../autograd.js";
import { normalizeAxis, show, sizeOf } from "../shape.js";
import { alive, fresh, Tensor, zeros } from "../tensor.js";
import { concat } from "./concat.js";

/**
 * Elements [start, end) along one axis. Along the leading axis it is a view that shares storage, elsewhere a copy.
 * Negative bounds count from the end.
 */
export function slice(x: Tensor, axis: number, start: number, end: number = x.shape.at(axis) ?? 0): Tensor {
  alive("slice", x);
  const along = normalizeAxis("slice", axis, x.shape);
  const extent = x.shape[along];
  const from = start < 0 ? start + extent : start;
  const to = end < 0 ? end + extent : end;
  if (!(from >= 0 && from <= to && to <= extent)) {
    throw new Error(`slice: [${start}, ${end}) is outside axis ${axis} of shape ${show(x.shape)}`);
  }
  if (from === 0 && to === extent) return x;
  const shape = x.shape.with(along, to - from);
  const y =
    along === 0
      ? new Tensor(x.storage, shape, x.offset + from * sizeOf(x.shape.slice(1)))
      : fresh(
          x.backend.slice(
            x,
            x.shape.map((_, i) => (i === along ? from : 0)),
            shape,
          ),
          shape,
        );
  record("slice", [x], y, [], ([dy]) => {
    const pad = (length: number) => zeros(x.shape.with(along, length), { backend: x.backend, dtype: x.dtype });
    return [concat([pad(from), dy!, pad(extent - to)], along)];
  });
  return y;
}
