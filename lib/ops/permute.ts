import { record } from "../autograd.js";
import { show } from "../shape.js";
import { alive, fresh, type Tensor } from "../tensor.js";

/** Reorders the axes: axis i of the result is axis `axes[i]` of x. A copy. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  alive("permute", x);
  if ([...axes].sort((a, b) => a - b).some((axis, i) => axis !== i) || axes.length !== x.rank) {
    throw new Error(`permute: [${axes.join(", ")}] does not name every axis of ${show(x.shape)} once`);
  }
  const y = fresh(
    x.backend.permute(x, axes),
    axes.map((axis) => x.shape[axis]),
  );
  record("permute", [x], y, [], ([dy]) => [
    permute(
      dy!,
      axes.map((_, i) => axes.indexOf(i)),
    ),
  ]);
  return y;
}

/** Swaps the last two axes. A copy. */
export function transpose(x: Tensor): Tensor {
  if (x.rank < 2) throw new Error(`transpose: shape ${show(x.shape)} has no two axes to swap`);
  const axes = x.shape.map((_, i) => i);
  return permute(x, [...axes.slice(0, -2), x.rank - 1, x.rank - 2]);
}
