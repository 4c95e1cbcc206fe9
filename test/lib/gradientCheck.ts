import { arena, type Backend, backward, noGrad, type Shape, type Tensor, tensor } from "../../lib/index.js";
import { largest, normals } from "./support.js";

export interface Operand {
  readonly shape: Shape;
  readonly values: ArrayLike<number>;
}

/** A differentiable function and where to test it. Values should be generic: no ties, no zeros, no kinks nearby. */
export interface GradientCase {
  readonly inputs: readonly Operand[];
  readonly run: (...inputs: Tensor[]) => Tensor | readonly Tensor[];
}

const STEP = 1e-5;

/**
 * Compares backward with central differences of Σ weights·outputs in f64, element by element.
 * @returns what is wrong, or undefined. A gradient that is zero everywhere is wrong too: it could not have failed.
 */
export async function gradientError(backend: Backend, { inputs, run }: GradientCase): Promise<string | undefined> {
  const place = ({ shape, values }: Operand) => tensor(values, { backend, dtype: "f64", shape });
  const outputsOf = (tensors: Tensor[]) => [run(...tensors)].flat() as Tensor[];
  const weigh = (outputs: readonly Tensor[]) =>
    outputs.map(({ shape, size }, i) => tensor(normals(900 + i, size), { backend, dtype: "f64", shape }));

  const analytic = (required: readonly boolean[]) =>
    Promise.all(
      arena(() => {
        const leaves = inputs.map(place);
        leaves.forEach((leaf, i) => {
          leaf.requiresGrad = required[i];
        });
        const outputs = outputsOf(leaves);
        backward(outputs, weigh(outputs));
        const grads = leaves.map(async ({ grad }) => grad?.data());
        for (const { grad } of leaves) grad?.dispose();
        return grads;
      }),
    );
  const value = (operands: readonly Operand[]) =>
    arena(() =>
      noGrad(() => {
        const outputs = outputsOf(operands.map(place));
        const weights = weigh(outputs);
        const [first, ...rest] = outputs.map((output, i) => output.mul(weights[i]).sum());
        return [rest.reduce((sum, part) => sum.add(part), first).item()];
      }),
    )[0];

  const together = await analytic(inputs.map(() => true));
  for (const [i, operand] of inputs.entries()) {
    const numeric = new Float64Array(operand.values.length);
    for (let j = 0; j < numeric.length; j++) {
      const moved = (by: number) => {
        const values = Float64Array.from(operand.values);
        values[j] += by;
        return value(inputs.with(i, { ...operand, values }));
      };
      numeric[j] = ((await moved(STEP)) - (await moved(-STEP))) / (2 * STEP);
    }
    const scale = largest(numeric);
    if (!(scale > 1e-3)) return `input ${i}: the gradient vanishes (${scale}); the case shows nothing`;
    const alone = await analytic(inputs.map((_, k) => k === i));
    for (const [kind, grads] of Object.entries({ together, alone })) {
      const grad = grads[i];
      if (!grad) return `input ${i}: no gradient (${kind})`;
      const gap = largest(numeric.map((expected, j) => grad[j] - expected)) / scale;
      if (!(gap < 1e-7)) return `input ${i}: relative error ${gap} (${kind})`;
    }
  }
  return undefined;
}
