import type { DType } from "../../../dtype.js";
import type { ArrayRef, Storage } from "../../backend.js";
import type { Floats, Gemm } from "../gemm.js";
import type { RowProduct } from "../rowProduct.js";

/**
 * How fused kernels in TypeScript reach a backend's buffers. The cpu backend gives its own memory; a TensorFlow.js engine
 * that computes in host memory copies in and out.
 */
export interface HostMemory {
  readonly gemm: Gemm;
  /** Rows that products are to have so that a row's bits do not depend on the others; 1 where they never do. */
  readonly rows: number;
  readonly rowProduct: RowProduct;
  /** Elements as f32 or f64; 16-bit floats are widened into a copy. Not to be written. */
  read(x: ArrayRef): Floats;
  /** Elements of an i32 array. */
  readInts(x: ArrayRef): Int32Array;
  /** A new buffer with undefined contents, to be filled before `done`, which rounds where `dtype` is a 16-bit float. */
  output(dtype: DType, size: number): Output;
  /** Working memory with undefined contents; give it back with `release`. */
  scratch(like: Floats, size: number): Floats;
  release(scratch: Floats): void;
  /** *In place* access to f32 or f64 state: calls `fn` on the elements and makes what it wrote stick. */
  update(x: ArrayRef, fn: (elements: Floats) => void): void;
}

export interface Output {
  readonly data: Floats;
  done(): Storage;
}

/** The dtype of statistics that go with an input: f64 for f64, else f32. */
export function wideOf(x: ArrayRef): "f32" | "f64" {
  return x.storage.dtype === "f64" ? "f64" : "f32";
}
