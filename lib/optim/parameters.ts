import { show } from "../shape.js";
import type { Tensor } from "../tensor.js";

/** Tensors by name, such as a model's parameters; tied ones stand under each of their names. */
export type ParameterSet = ReadonlyMap<string, Tensor>;

/**
 * The parameters to train, each once and under the first of its names: those that require a gradient.
 * @throws where two tensors share storage without being one (their gradients would not add up), or one is a mere view.
 */
export function trainable(parameters: ParameterSet): Map<string, Tensor> {
  const distinct = new Map<string, Tensor>();
  const seen = new Map<unknown, [name: string, parameter: Tensor]>();
  for (const [name, parameter] of parameters) {
    if (!parameter.requiresGrad) continue;
    const known = seen.get(parameter.storage);
    if (known) {
      if (known[1] === parameter) continue;
      throw new Error(`parameters: ${known[0]} and ${name} share storage; give one tensor under both names`);
    }
    if (parameter.size !== parameter.storage.size) {
      throw new Error(`parameters: ${name} ${show(parameter.shape)} is a view; give the tensor that it is part of`);
    }
    seen.set(parameter.storage, [name, parameter]);
    distinct.set(name, parameter);
  }
  return distinct;
}

/** Frees every gradient. */
export function zeroGrad(parameters: ParameterSet): void {
  for (const parameter of parameters.values()) {
    parameter.grad?.dispose();
    parameter.grad = undefined;
  }
}
