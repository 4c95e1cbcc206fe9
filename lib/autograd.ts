import { arena, freeStorage, keep, refusePromise, save, track, unsave } from "./arena.js";
import type { Storage } from "./backend/backend.js";
import { sameShape, show } from "./shape.js";
import { fresh, Tensor } from "./tensor.js";

/** A recorded operation: how the gradients of its outputs become gradients of its inputs. */
export interface TapeNode {
  /** Rises with time; an operation's id is above those of everything it depends on. */
  readonly id: number;
  readonly op: string;
  readonly inputs: readonly Tensor[];
  readonly outputs: number;
  saved: readonly { storage: Storage; version: number }[];
  /** Undefined once backward has run through it. */
  backward: BackwardRule | undefined;
}

/** Gradient of each output (undefined where nothing flowed) → gradient of each input (undefined where there is none). */
export type BackwardRule = (grads: readonly (Tensor | undefined)[], carry: Carry) => readonly (Tensor | undefined)[];

/**
 * Hands over what other uses of an input have added to its gradient so far, if anything: a rule that asks for it returns
 * the sum of it and its own part, which saves a pass over both.
 */
export type Carry = (input: number) => Tensor | undefined;

let recording = true;
let nextId = 0;

/** Runs `fn` without recording operations. */
export function noGrad<T>(fn: () => T): T {
  return withRecording(false, fn);
}

function withRecording<T>(value: boolean, fn: () => T): T {
  const before = recording;
  recording = value;
  try {
    return refusePromise("noGrad", fn());
  } finally {
    recording = before;
  }
}

/** Whether an operation on these inputs has to be recorded. */
export function needsGrad(...inputs: readonly (Tensor | undefined)[]): boolean {
  return recording && inputs.some((input) => input?.requiresGrad);
}

/**
 * Records an operation if one of its inputs needs a gradient. `saved` names what `backward` reads: those buffers live
 * until it has run, and must not be written to before.
 */
export function record(
  op: string,
  inputs: readonly Tensor[],
  outputs: Tensor | readonly Tensor[],
  saved: readonly Tensor[],
  backward: BackwardRule,
): void {
  if (!needsGrad(...inputs)) return;
  const list = outputs instanceof Tensor ? [outputs] : outputs;
  const claims = saved.map(({ storage }) => ({ storage, version: storage.version }));
  for (const { storage } of claims) save(storage);
  const node: TapeNode = { id: nextId++, op, inputs, outputs: list.length, saved: claims, backward };
  list.forEach((output, i) => {
    output.requiresGrad = true;
    output.node = node;
    output.outputIndex = i;
  });
}

/**
 * Adds ∂(Σ outputs·grads)/∂leaf to the `grad` of every leaf that requires one. The recorded graph is consumed.
 * Gradients of parameters are held in f32 (f64 for f64) and live outside arenas.
 *
 * @param grads one for each output, of its shape and dtype; a scalar output may go without (1).
 */
export function backward(outputs: readonly Tensor[], grads: readonly (Tensor | undefined)[] = []): void {
  arena(() =>
    noGrad(() => {
      const pending = new PendingGradients(grads);
      outputs.forEach((output, i) => {
        const grad = grads[i] ?? onesLike(output);
        if (!sameShape(grad.shape, output.shape) || grad.dtype !== output.dtype) {
          const [given, wanted] = [grad, output].map(({ dtype, shape }) => `${dtype} ${show(shape)}`);
          throw new Error(`backward: gradient ${given} for an output of ${wanted}`);
        }
        pending.add(output, grad);
      });
      for (const node of reachable(outputs)) runNode(node, pending);
    }),
  );
}

function runNode(node: TapeNode, pending: PendingGradients): void {
  const grads = pending.take(node);
  if (!node.backward) throw new Error(`backward: the graph of ${node.op} was used already; run its forward again`);
  if (grads.some((grad) => grad !== undefined)) {
    checkSaved(node);
    const rule = node.backward;
    const carried: Tensor[] = [];
    const carry: Carry = (i) => {
      const grad = pending.carry(node.inputs[i]);
      if (grad) carried.push(grad);
      return grad;
    };
    const inputGrads = arena(() => rule(grads, carry));
    node.inputs.forEach((input, i) => {
      const grad = inputGrads[i];
      if (grad && input.requiresGrad) pending.add(input, grad);
    });
    pending.drop(inputGrads);
    pending.drop(carried);
  }
  pending.drop(grads);
  node.backward = undefined;
  for (const { storage } of node.saved) unsave(storage);
  node.saved = [];
}

function checkSaved(node: TapeNode): void {
  for (const { storage, version } of node.saved) {
    if (storage.freed)
      throw new Error(`backward: a tensor that ${node.op} saved was freed; keep its arena open until then`);
    if (storage.version !== version) {
      throw new Error(
        `backward: a tensor that ${node.op} saved was overwritten since; run the forward after the update`,
      );
    }
  }
}

/**
 * For a backward rule: the gradient of `input` that a kernel computed in f32 (f64 for f64) and added in place to
 * `input.grad` where there was one, so that a parameter's gradient is neither rounded to the parameter's dtype nor summed
 * in a pass of its own.
 */
export function wideGradient(input: Tensor, storage: Storage): Tensor {
  if (input.grad?.storage === storage) return input.grad;
  const gradient = fresh(storage, input.shape);
  return input.node ? gradient.to(input.dtype) : gradient;
}

/** Recorded operations below `outputs`, the latest first. */
function reachable(outputs: readonly Tensor[]): TapeNode[] {
  const nodes = new Set<TapeNode>();
  const stack = outputs.map((output) => output.node);
  for (let node = stack.pop(); stack.length > 0 || node; node = stack.pop()) {
    if (!node || nodes.has(node)) continue;
    nodes.add(node);
    for (const input of node.inputs) if (input.node) stack.push(input.node);
  }
  return [...nodes].sort((a, b) => b.id - a.id);
}

/** Gradients on their way down, with a count of who still needs each buffer so that it is freed at once. */
class PendingGradients {
  readonly #slots = new Map<TapeNode, (Tensor | undefined)[]>();
  readonly #uses = new Map<Storage, number>();
  /** Buffers that the caller or a leaf's `grad` holds: not ours to free. */
  readonly #held = new Set<Storage>();

  constructor(given: readonly (Tensor | undefined)[]) {
    for (const grad of given) if (grad) this.#held.add(grad.storage);
  }

  /** Adds a gradient for `target`: to its node's slot, or to `grad` of a leaf. */
  add(target: Tensor, grad: Tensor): void {
    if (!target.node) {
      if (target.requiresGrad) this.#accumulate(target, grad);
      return;
    }
    let slots = this.#slots.get(target.node);
    if (!slots) this.#slots.set(target.node, (slots = new Array(target.node.outputs)));
    const before = slots[target.outputIndex];
    const sum = before ? before.add(grad) : grad;
    slots[target.outputIndex] = sum;
    this.#count(sum, 1);
    if (before) {
      this.#count(before, -1);
      this.drop([before]);
    }
  }

  /** Takes the gradient that is waiting for `target` out of its slot; the caller adds it back as part of a sum. */
  carry({ node, outputIndex }: Tensor): Tensor | undefined {
    const slots = node && this.#slots.get(node);
    const grad = slots?.[outputIndex];
    if (!grad) return undefined;
    slots[outputIndex] = undefined;
    this.#count(grad, -1);
    return grad;
  }

  take(node: TapeNode): (Tensor | undefined)[] {
    const grads = this.#slots.get(node) ?? new Array(node.outputs).fill(undefined);
    this.#slots.delete(node);
    for (const grad of grads) if (grad) this.#count(grad, -1);
    return grads;
  }

  /** Frees gradients that nobody waits for any more. */
  drop(grads: readonly (Tensor | undefined)[]): void {
    for (const grad of grads) {
      if (!grad || this.#uses.get(grad.storage) || this.#held.has(grad.storage)) continue;
      this.#uses.delete(grad.storage);
      freeStorage(grad.storage);
    }
  }

  #count({ storage }: Tensor, change: number): void {
    this.#uses.set(storage, (this.#uses.get(storage) ?? 0) + change);
  }

  #accumulate(leaf: Tensor, grad: Tensor): void {
    if (!sameShape(leaf.shape, grad.shape)) {
      throw new Error(`backward: gradient ${show(grad.shape)} for a parameter of shape ${show(leaf.shape)}`);
    }
    const dtype = leaf.dtype === "f64" ? "f64" : "f32";
    const { storage } = grad;
    if (leaf.grad?.storage === storage) {
      this.#held.add(storage);
      return;
    }
    if (leaf.grad) {
      leaf.grad.backend.accumulate(leaf.grad, grad);
    } else if (
      grad.dtype === dtype &&
      grad.size === storage.size &&
      !this.#held.has(storage) &&
      !this.#uses.has(storage)
    ) {
      leaf.grad = keep(grad);
      this.#held.add(storage);
    } else {
      leaf.grad = new Tensor(grad.backend.cast(grad, dtype), grad.shape);
    }
  }
}

function onesLike(output: Tensor): Tensor {
  if (output.size !== 1) throw new Error(`backward: an output of shape ${show(output.shape)} needs its gradient given`);
  return new Tensor(output.backend.fill(output.dtype, 1, 1), output.shape);
}

/**
 * Computes `fn(...inputs)` without keeping what its backward needs, and computes it again there: memory for time.
 * `fn` must be pure and synchronous; parameters it closes over receive their gradients as usual.
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]): Tensor {
  const output = noGrad(() => arena(() => fn(...inputs)));
  if (!recording) return output;
  // Parameters inside `fn` are not among the inputs, so it is recorded whether or not an input needs a gradient.
  const result = output.detach();
  const anchor = inputs.some((input) => input.requiresGrad) ? inputs : [...inputs, gradAnchor(output)];
  record("checkpoint", anchor, result, inputs, ([grad]) => {
    const leaves = inputs.map((input) => {
      const leaf = input.detach();
      leaf.requiresGrad = input.requiresGrad;
      return leaf;
    });
    // As without checkpoint, the uses of a result are summed in its dtype (hence the view), those of a leaf in f32.
    const enter = (leaf: Tensor, i: number) => (inputs[i].node ? leaf.reshape(leaf.shape) : leaf);
    withRecording(true, () => backward([fn(...leaves.map(enter))], [grad]));
    return leaves.map(({ grad, dtype }, i) => {
      if (grad) track(grad.storage);
      return inputs[i].node ? grad?.to(dtype) : grad;
    });
  });
  return result;
}

/** A leaf that asks for a gradient but has no say in the value. */
function gradAnchor(like: Tensor): Tensor {
  const leaf = like.detach();
  leaf.requiresGrad = true;
  return leaf;
}
