import { record } from "../autograd.js";
import { type DType, dtypes } from "../dtype.js";
import { alive, fresh, type Tensor } from "../tensor.js";

/** Converts to another element type: floats round to nearest even, integers truncate. Returns x itself if it has it. */
export function cast(x: Tensor, dtype: DType): Tensor {
  alive("to", x);
  if (x.dtype === dtype) return x;
  if (!x.backend.dtypes.has(dtype)) throw new Error(`to: ${x.backend.name} does not hold ${dtype}`);
  const y = fresh(x.backend.cast(x, dtype), x.shape);
  if (dtypes[dtype].floating && dtypes[x.dtype].floating) record("to", [x], y, [], ([dy]) => [cast(dy!, x.dtype)]);
  return y;
}
