import { arena, outsideArenas } from "../arena.js";
import { noGrad } from "../autograd.js";
import type { AdamwStep } from "../backend/backend.js";
import { InputError } from "../errors.js";
import { fusedKernels, wide } from "../ops/fused.js";
import { sameShape, show } from "../shape.js";
import { type Tensor, zeros } from "../tensor.js";
import { type ParameterSet, trainable, zeroGrad } from "./parameters.js";

export interface AdamWOptions {
  /** Learning rate. Default 1e-3. */
  readonly lr?: number;
  /** Decay of the first and second moment. Default 0.9, 0.999. */
  readonly betas?: readonly [number, number];
  /** Default 1e-8. */
  readonly eps?: number;
  /** Default 0.01. */
  readonly weightDecay?: number;
}

/** What a checkpoint holds of an optimizer. */
export interface OptimizerState {
  /** Steps taken. */
  readonly step: number;
  /** `NAME.exp_avg`, `NAME.exp_avg_sq` and, for 16-bit parameters, `NAME.master`: PyTorch's names. */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** A parameter and its state. `master` is the parameter itself unless that is a 16-bit float. */
interface Slot {
  readonly parameter: Tensor;
  readonly master: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
}

/**
 * Adam with decoupled weight decay, as torch.optim.AdamW (Loshchilov & Hutter 2019): with g the scaled gradient,
 *
 *     m ← β₁m + (1−β₁)g      v ← β₂v + (1−β₂)g²
 *     w ← (1 − lr·λ)w − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
 *
 * Moments are f32, and 16-bit parameters have an f32 master that takes the updates and is rounded into them. Parameters
 * under two names are visited once, those without a gradient are left alone. State lives outside arenas. Make it after the
 * weights are loaded.
 */
export class AdamW {
  readonly #slots = new Map<string, Slot>();
  readonly #options: Required<AdamWOptions>;
  #step = 0;

  constructor(
    parameters: ParameterSet,
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01 }: AdamWOptions = {},
  ) {
    this.#options = { lr, betas, eps, weightDecay };
    noGrad(() =>
      outsideArenas(() => {
        for (const [name, parameter] of trainable(parameters)) {
          const dtype = wide(parameter);
          const moment = () => zeros(parameter.shape, { backend: parameter.backend, dtype });
          this.#slots.set(name, { parameter, master: parameter.to(dtype), m: moment(), v: moment() });
        }
      }),
    );
  }

  /**
   * One update from the gradients that backward left, which stay until `zeroGrad`.
   * @throws where no parameter has a gradient.
   */
  step({ lr = this.#options.lr, gradScale = 1 }: { readonly lr?: number; readonly gradScale?: number } = {}): void {
    const { betas, eps, weightDecay } = this.#options;
    const slots = [...this.#slots.values()].filter(({ parameter }) => parameter.grad);
    if (slots.length === 0) throw new Error("AdamW: no parameter has a gradient; run backward before step");
    const step = ++this.#step;
    const values = { lr, beta1: betas[0], beta2: betas[1], eps, weightDecay, step, gradScale };
    const kernels = fusedKernels(slots[0].parameter, "adamwMany");
    if (kernels) {
      const all = slots.map(({ parameter, master, m, v }) => ({
        param: parameter,
        master,
        grad: parameter.grad!,
        m,
        v,
      }));
      kernels.adamwMany(all, values);
      for (const { param, master, m, v } of all) bumpVersions(param, master, m, v);
    } else {
      for (const { parameter, master, m, v } of slots) adamw(parameter, master, parameter.grad!, m, v, values);
    }
  }

  /** Frees the gradients. */
  zeroGrad(): void {
    zeroGrad(new Map([...this.#slots].map(([name, { parameter }]) => [name, parameter])));
  }

  /** The state itself, not a copy: read it before the next step. */
  state(): OptimizerState {
    const tensors = new Map<string, Tensor>();
    for (const [name, { parameter, master, m, v }] of this.#slots) {
      tensors.set(`${name}.exp_avg`, m).set(`${name}.exp_avg_sq`, v);
      if (master !== parameter) tensors.set(`${name}.master`, master);
    }
    return { step: this.#step, tensors };
  }

  /**
   * Takes over a saved state; the tensors given are copied and remain the caller's.
   * @throws InputError where names, shapes or dtypes are not those of this optimizer; nothing is changed then.
   */
  load({ step, tensors }: OptimizerState): void {
    const own = this.state().tensors;
    for (const name of tensors.keys()) {
      if (!own.has(name))
        throw new InputError(`optimizer state has ${name}, which the model lacks; use its own checkpoint`);
    }
    for (const [name, target] of own) {
      const source = tensors.get(name);
      if (!source || !sameShape(source.shape, target.shape) || source.dtype !== target.dtype) {
        const found = source ? `is ${source.dtype} ${show(source.shape)}` : "is missing";
        throw new InputError(
          `optimizer state: ${name} ${found}; the model needs ${target.dtype} ${show(target.shape)}`,
        );
      }
    }
    for (const [name, target] of own) target.assign(tensors.get(name)!);
    this.#step = step;
  }

  /** Frees moments and masters; the parameters stay. */
  dispose(): void {
    for (const tensor of this.state().tensors.values()) tensor.dispose();
    this.#slots.clear();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** In place: the update of one parameter, by the backend's kernel or composed. `master` may be `parameter` itself. */
export function adamw(parameter: Tensor, master: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: AdamwStep): void {
  const kernels = fusedKernels(parameter, "adamw");
  if (kernels) {
    kernels.adamw(parameter, master, grad, m, v, step);
    bumpVersions(parameter, master, m, v);
  } else {
    adamwComposed(parameter, master, grad, m, v, step);
  }
}

function bumpVersions(...written: readonly Tensor[]): void {
  for (const { storage } of new Set(written)) storage.version++;
}

export function adamwComposed(
  parameter: Tensor,
  master: Tensor,
  grad: Tensor,
  m: Tensor,
  v: Tensor,
  { lr, beta1, beta2, eps, weightDecay, step, gradScale }: AdamwStep,
): void {
  arena(() =>
    noGrad(() => {
      const g = grad.mul(gradScale);
      m.assign(m.mul(beta1).add(g.mul(1 - beta1)));
      v.assign(v.mul(beta2).add(g.square().mul(1 - beta2)));
      const size = v
        .sqrt()
        .div(Math.sqrt(1 - beta2 ** step))
        .add(eps);
      master.assign(master.mul(1 - lr * weightDecay).sub(m.div(size).mul(lr / (1 - beta1 ** step))));
      if (master !== parameter) parameter.assign(master.to(parameter.dtype));
    }),
  );
}
