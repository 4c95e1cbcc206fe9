import { record } from "../autograd.js";
import { type Shape, show, sizeOf } from "../shape.js";
import { alive, Tensor } from "../tensor.js";

/** The same elements under another shape, for free; one extent may be −1 and is then inferred. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  alive("reshape", x);
  const known = sizeOf(shape.filter((extent) => extent !== -1));
  const target = shape.map((extent) => (extent === -1 ? x.size / known : extent));
  if (sizeOf(target) !== x.size || target.some((extent) => !Number.isInteger(extent) || extent < 0)) {
    throw new Error(`reshape: ${show(x.shape)} has ${x.size} elements and does not fit ${show(shape)}`);
  }
  const y = new Tensor(x.storage, target, x.offset);
  record("reshape", [x], y, [], ([dy]) => [reshape(dy!, x.shape)]);
  return y;
}
