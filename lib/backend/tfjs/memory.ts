import type { DataType, Tensor as EngineTensor } from "@tensorflow/tfjs-core";
import { type DType, dtypes, type TypedArray } from "../../dtype.js";
import { type Shape, sameShape, sizeOf } from "../../shape.js";
import { type ArrayRef, type Backend, type MemoryUse, Storage } from "../backend.js";
import type { Engine } from "./engines.js";

/** What tfjs calls the element types it has. */
export const engineDtypes: Partial<Record<DType, DataType>> = { f32: "float32", i32: "int32", bool: "bool" };

/**
 * Where a storage's elements are: in a tensor of the engine, of any shape, or in a storage of the host's backend. They
 * move when the other side has to own them. Engine tensors are never written to: a write puts another one here.
 */
interface Handle {
  elements: EngineTensor | Storage;
  /** A transposed copy of an engine tensor, for products; dropped with it. */
  transposed?: EngineTensor;
}

/** The buffers of one adapter, and their count. */
export class EngineMemory {
  #bytes = 0;
  #buffers = 0;
  #peakBytes = 0;

  constructor(
    readonly engine: Engine,
    /** The backend that storages are to name. */
    readonly backend: () => Backend,
  ) {}

  /** A storage over elements that belong to nobody else. */
  put(dtype: DType, size: number, elements: EngineTensor | Storage): Storage {
    const handle: Handle = { elements: elements instanceof Storage ? elements : this.engine.tf.keep(elements) };
    this.#count(size * dtypes[dtype].bytes, 1);
    return new Storage(this.backend(), dtype, size, handle);
  }

  free(storage: Storage): void {
    this.#drop(storage);
    this.#count(-bytesOf(storage), -1);
  }

  use(): MemoryUse {
    return { bytes: this.#bytes, buffers: this.#buffers, peakBytes: this.#peakBytes };
  }

  /** An engine tensor over host data that may be overwritten afterwards. */
  upload(data: TypedArray, dtype: DType, shape: Shape): EngineTensor {
    return this.engine.tf.tensor(
      this.engine.keepsArrays ? data.slice() : data,
      [...shape],
      engineDtypes[dtype] as "float32",
    );
  }

  /** The elements as an engine tensor, which belongs to this memory or to the caller's tidy. */
  tensor(x: ArrayRef, shape: Shape = x.shape): EngineTensor {
    const { tf } = this.engine;
    const whole = this.#onEngine(x.storage);
    if (!isWhole(x)) {
      const flat = tf.reshape(whole, [x.storage.size]);
      return tf.reshape(tf.slice(flat, x.offset, sizeOf(x.shape)), [...shape]);
    }
    return sameShape(whole.shape, shape) ? whole : tf.reshape(whole, [...shape]);
  }

  /** A matrix transposed; of a whole storage it is kept until that is written to or freed. */
  transposed(x: ArrayRef, rows: number, columns: number): EngineTensor {
    const { tf } = this.engine;
    const handle = x.storage.handle as Handle;
    if (handle.transposed && isWhole(x)) return tf.reshape(handle.transposed, [columns, rows]);
    const made = tf.transpose(this.tensor(x, [rows, columns]));
    if (isWhole(x)) {
      handle.transposed = tf.keep(made);
      this.#count(bytesOf(x.storage), 0);
    }
    return made;
  }

  /** *In place*, on the engine: the elements of x become those of `values`. */
  write(x: ArrayRef, values: EngineTensor): void {
    const { tf } = this.engine;
    const { size } = x.storage;
    let whole = tf.clone(values);
    if (!isWhole(x)) {
      const before = tf.reshape(this.#onEngine(x.storage), [size]);
      const end = x.offset + sizeOf(x.shape);
      const middle = tf.reshape(values, [sizeOf(x.shape)]);
      whole = tf.concat([tf.slice(before, 0, x.offset), middle, tf.slice(before, end, size - end)]);
    }
    this.#drop(x.storage);
    (x.storage.handle as Handle).elements = tf.keep(whole);
  }

  /** x in the host's backend, to be read; `isCopy` tells whether it is to be freed there. For engines in host memory. */
  onHost(x: ArrayRef, host: Backend): { ref: ArrayRef; isCopy: boolean } {
    const { elements } = x.storage.handle as Handle;
    if (elements instanceof Storage)
      return { ref: { storage: elements, offset: x.offset, shape: x.shape }, isCopy: false };
    const copy = host.upload(
      x.storage.dtype,
      this.engine.host!.view(elements).subarray(x.offset, x.offset + sizeOf(x.shape)),
    );
    return { ref: { storage: copy, offset: 0, shape: x.shape }, isCopy: true };
  }

  /** Moves x to the host's backend, to be written there. For engines in host memory. */
  moveToHost(x: ArrayRef, host: Backend): ArrayRef {
    const handle = x.storage.handle as Handle;
    if (!(handle.elements instanceof Storage)) {
      const moved = host.upload(x.storage.dtype, this.engine.host!.view(handle.elements));
      this.#drop(x.storage);
      handle.elements = moved;
    }
    return { storage: handle.elements, offset: x.offset, shape: x.shape };
  }

  #onEngine(storage: Storage): EngineTensor {
    const handle = storage.handle as Handle;
    if (!(handle.elements instanceof Storage)) return handle.elements;
    const tensor = this.engine.tf.keep(
      this.upload(handle.elements.handle as TypedArray, storage.dtype, [storage.size]),
    );
    this.#drop(storage);
    handle.elements = tensor;
    return tensor;
  }

  #drop(storage: Storage): void {
    const handle = storage.handle as Handle;
    if (handle.elements instanceof Storage) handle.elements.backend.free(handle.elements);
    else handle.elements.dispose();
    if (handle.transposed) this.#count(-bytesOf(storage), 0);
    handle.transposed?.dispose();
    handle.transposed = undefined;
  }

  #count(bytes: number, buffers: number): void {
    this.#bytes += bytes;
    this.#buffers += buffers;
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
  }
}

function isWhole(x: ArrayRef): boolean {
  return sizeOf(x.shape) === x.storage.size;
}

function bytesOf({ dtype, size }: Storage): number {
  return size * dtypes[dtype].bytes;
}
