import type { Storage } from "./backend/backend.js";
import { Tensor } from "./tensor.js";

/**
 * Owns the buffers allocated while it is current and frees them together. JavaScript has no destructors; this is what
 * stands in for them. Long-lived tasks hold one explicitly (`new Arena()`), short work uses `arena(fn)`.
 */
export class Arena {
  readonly #owned = new Set<Storage>();
  #closed = false;

  /** Runs `fn` with this arena as the current one. `fn` must be synchronous: nothing ambient survives an `await`. */
  run<T>(fn: () => T): T {
    if (this.#closed) throw new Error("arena: it was disposed; make a new one");
    const outer = current;
    current = this;
    try {
      return refusePromise("arena", fn());
    } finally {
      current = outer;
    }
  }

  /** Takes over a buffer, which is then freed with this arena. */
  adopt(storage: Storage): void {
    owners.get(storage)?.release(storage);
    this.#owned.add(storage);
    owners.set(storage, this);
  }

  /** Lets go of a buffer without freeing it: its holder is responsible for it from now on. */
  release(storage: Storage): void {
    if (this.#owned.delete(storage)) owners.delete(storage);
  }

  /** Buffers owned now. */
  get owned(): ReadonlySet<Storage> {
    return this.#owned;
  }

  /** Frees everything that is still owned. May be called twice. */
  dispose(): void {
    this.#closed = true;
    for (const storage of this.#owned) freeStorage(storage);
    this.#owned.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

let current: Arena | undefined;
const owners = new WeakMap<Storage, Arena>();
/** Buffers that live only because a recorded operation saved them: freed as soon as backward has used them. */
const onlySaved = new WeakSet<Storage>();

/** Called for every new storage: the current arena, if there is one, owns it. */
export function track(storage: Storage): void {
  current?.adopt(storage);
}

/**
 * Runs `fn` and frees what was allocated inside, except the tensors in its result (a tensor, or arrays and objects of
 * them) and those saved for backward; these pass to the enclosing arena, or to the caller where there is none.
 */
export function arena<T>(fn: () => T): T {
  const outer = current;
  const inner = new Arena();
  let result: T;
  try {
    result = inner.run(fn);
  } catch (error) {
    inner.dispose();
    throw error;
  }
  const returned = new Set<Storage>();
  let differentiable = false;
  visitTensors(result, (tensor) => {
    returned.add(tensor.storage);
    differentiable ||= tensor.node !== undefined;
  });
  for (const storage of [...inner.owned]) {
    const isReturned = returned.has(storage);
    const isSaved = storage.saved > 0 && (outer !== undefined || differentiable);
    if (!isReturned && !isSaved) continue;
    inner.release(storage);
    if (!isReturned) onlySaved.add(storage);
    outer?.adopt(storage);
  }
  inner.dispose();
  return result;
}

/** Takes tensors out of their arena: they live until `dispose()`. Returns its argument. */
export function keep<T>(value: T): T {
  visitTensors(value, ({ storage }) => {
    owners.get(storage)?.release(storage);
    onlySaved.delete(storage);
  });
  return value;
}

/** Runs `fn` without a current arena, for state that outlives the step: parameters, moments, KV pages. */
export function outsideArenas<T>(fn: () => T): T {
  const outer = current;
  current = undefined;
  try {
    return refusePromise("outsideArenas", fn());
  } finally {
    current = outer;
  }
}

/** Counts a recorded operation's claim on a buffer. */
export function save(storage: Storage): void {
  storage.saved++;
}

/** Gives a claim back; a buffer that lived for it alone is freed. */
export function unsave(storage: Storage): void {
  storage.saved--;
  if (storage.saved === 0 && onlySaved.has(storage)) freeStorage(storage);
}

/** Frees a buffer now, wherever it is owned. */
export function freeStorage(storage: Storage): void {
  if (storage.freed) return;
  owners.get(storage)?.release(storage);
  storage.backend.free(storage);
  storage.freed = true;
}

/** Calls `visit` for each tensor in a value: itself, or inside arrays, maps and plain objects. */
export function visitTensors(value: unknown, visit: (tensor: Tensor) => void): void {
  if (value instanceof Tensor) visit(value);
  else if (Array.isArray(value) || value instanceof Map || value instanceof Set) {
    for (const item of value.values()) visitTensors(item, visit);
  } else if (value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) visitTensors(item, visit);
  }
}

/** Returns `value`, or throws when it is a promise: ambient state would have been left before it settles. */
export function refusePromise<T>(what: string, value: T): T {
  if (value !== null && typeof value === "object" && "then" in value && typeof value.then === "function") {
    throw new Error(`${what}: its callback returned a promise; do asynchronous work outside, or hold a new Arena()`);
  }
  return value;
}
