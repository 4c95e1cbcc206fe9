import { freeStorage, track } from "./arena.js";
import type { TapeNode } from "./autograd.js";
import type { ArrayRef, Backend, Storage } from "./backend/backend.js";
import { type DType, decode, dtypes, encode, type TypedArray } from "./dtype.js";
import { type Shape, sameShape, show, sizeOf } from "./shape.js";

/**
 * A contiguous array on a device. Shape and values are immutable, except through `assign` and the optimizers.
 * Operations are functions in lib/ops and chained methods of the same names (lib/methods.ts).
 */
export class Tensor implements ArrayRef {
  /** Whether backward is to leave a gradient here (leaf) or passes through (result). */
  requiresGrad = false;
  /** The accumulated gradient of a leaf, f32 (f64 for f64); outside arenas. */
  grad: Tensor | undefined;
  /** The operation that made this tensor, while its gradient can still be asked for. */
  node: TapeNode | undefined;
  /** Which output of `node` this is. */
  outputIndex = 0;

  constructor(
    readonly storage: Storage,
    readonly shape: Shape,
    readonly offset = 0,
  ) {}

  get dtype(): DType {
    return this.storage.dtype;
  }
  get backend(): Backend {
    return this.storage.backend;
  }
  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }
  get rank(): number {
    return this.shape.length;
  }

  /**
   * The elements on the host, 16-bit floats widened to f32. The copy is enqueued before this returns: the tensor may be
   * freed or overwritten at once.
   */
  async data(): Promise<TypedArray> {
    alive("data", this);
    return decode(await this.backend.download(this), this.dtype);
  }

  /** The value of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new Error(`item: shape ${show(this.shape)} has ${this.size} elements; it needs exactly one`);
    return (await this.data())[0];
  }

  /** The same values, cut off from the recorded graph. Shares storage. */
  detach(): Tensor {
    return new Tensor(this.storage, this.shape, this.offset);
  }

  /** In place: takes the values of `source` (same shape and dtype). Saved uses of the old values become errors. */
  assign(source: Tensor): void {
    alive("assign", this, source);
    if (source.size !== this.size || source.dtype !== this.dtype) {
      throw new Error(
        `assign: ${source.dtype} ${show(source.shape)} does not fit ${this.dtype} ${show(this.shape)}; cast or reshape it`,
      );
    }
    this.backend.assign(this, source);
    this.storage.version++;
  }

  /** Frees the storage now, for this tensor and every view of it. */
  dispose(): void {
    freeStorage(this.storage);
    this.grad?.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A tensor over storage that was just allocated: the current arena owns it. */
export function fresh(storage: Storage, shape: Shape): Tensor {
  track(storage);
  return new Tensor(storage, shape);
}

/** Throws where a tensor's storage was freed, naming the operation that was to use it. */
export function alive(op: string, ...tensors: readonly Tensor[]): void {
  for (const { storage, shape } of tensors) {
    if (storage.freed) {
      throw new Error(`${op}: a tensor of shape ${show(shape)} was freed; return it from its arena or keep() it`);
    }
  }
}

type Nested = number | boolean | readonly Nested[];

export interface TensorOptions {
  readonly backend: Backend;
  /** Default f32. */
  readonly dtype?: DType;
  /** Default: the shape of the nested arrays, or [length]. */
  readonly shape?: Shape;
}

/** A tensor with the given values: nested arrays, a number, or a typed array (converted to `dtype`). */
export function tensor(values: Nested | ArrayLike<number>, options: TensorOptions): Tensor {
  const { backend, dtype = "f32" } = options;
  const nested = typeof values === "number" || typeof values === "boolean" || Array.isArray(values);
  const flat = nested ? ([values].flat(Number.POSITIVE_INFINITY) as number[]) : (values as ArrayLike<number>);
  const shape = options.shape ?? (nested ? nestedShape(values as Nested) : [flat.length]);
  if (sizeOf(shape) !== flat.length) throw new Error(`tensor: ${flat.length} values do not fill shape ${show(shape)}`);
  checkDtype(backend, dtype);
  return fresh(backend.upload(dtype, encode(flat, dtype)), shape);
}

function nestedShape(values: Nested): number[] {
  if (typeof values !== "object") return [];
  const isRow = typeof values[0] === "object";
  const inner = isRow ? nestedShape(values[0]) : [];
  if (values.some((value) => (isRow ? !sameShape(nestedShape(value), inner) : typeof value === "object"))) {
    throw new Error("tensor: the rows of nested arrays differ in shape");
  }
  return [values.length, ...inner];
}

/** A tensor from a host array that holds `dtype` already (16-bit floats as bit patterns). */
export function fromHost(data: TypedArray, options: TensorOptions & { shape: Shape }): Tensor {
  const { backend, dtype = "f32", shape } = options;
  checkDtype(backend, dtype);
  if (sizeOf(shape) !== data.length || data.BYTES_PER_ELEMENT !== dtypes[dtype].bytes) {
    throw new Error(`fromHost: ${data.length} × ${data.BYTES_PER_ELEMENT} bytes do not fill ${dtype} ${show(shape)}`);
  }
  return fresh(backend.upload(dtype, data), shape);
}

/** A tensor with every element `value`. */
export function full(shape: Shape, value: number, { backend, dtype = "f32" }: TensorOptions): Tensor {
  checkDtype(backend, dtype);
  return fresh(backend.fill(dtype, sizeOf(shape), value), shape);
}

export function zeros(shape: Shape, options: TensorOptions): Tensor {
  return full(shape, 0, options);
}

export function ones(shape: Shape, options: TensorOptions): Tensor {
  return full(shape, 1, options);
}

function checkDtype(backend: Backend, dtype: DType): void {
  if (!backend.dtypes.has(dtype)) {
    throw new Error(`${backend.name} does not hold ${dtype}; it has ${[...backend.dtypes].join(", ")}`);
  }
}
