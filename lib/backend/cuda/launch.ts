import type { DType } from "../../dtype.js";
import { dtypes } from "../../dtype.js";
import type { ArrayRef } from "../backend.js";
import type { CudaDevice } from "./device.js";

/** The C name of a floating element type in kernels/common.cuh. */
export function cType(op: string, dtype: DType): "float" | "bf16" | "f16" {
  if (dtype === "f32") return "float";
  if (dtype === "bf16" || dtype === "f16") return dtype;
  throw new Error(`${op}: cuda computes it in f32, bf16 and f16, not in ${dtype}`);
}

/** Elements a thread moves at once: as many as 16 bytes hold where `extent` and all addresses allow it, else one. */
export function packWidth(device: CudaDevice, extent: number, ...arrays: readonly ArrayRef[]): number {
  const width = 16 / dtypes[arrays[0].storage.dtype].bytes;
  return extent % width === 0 && arrays.every((array) => device.address(array) % 16 === 0) ? width : 1;
}

/** Letter of an index's type in a kernel's signature: 64-bit divisions are slow. A loop steps past its end by a grid at most. */
export function indexLetter(items: number): "i" | "l" {
  return items < 2 ** 31 ? "i" : "l";
}

/** C type of an index, for the macro INDEX. */
export const indexType = { i: "u32", l: "u64" } as const;

/** Grid of a loop over `items` in blocks of `block` threads that fills the device a few times at most. */
export function loopGrid(device: CudaDevice, items: number, block: number): [number] {
  return [Math.min(Math.ceil(items / block), 16 * device.multiprocessors)];
}

/** Multiplications and additions of q·kᵀ and p·v below the diagonal. */
export function causalFlops(offsets: Int32Array, heads: number, headDim: number): number {
  let pairs = 0;
  for (let s = 0; s + 1 < offsets.length; s++) pairs += (offsets[s + 1] - offsets[s]) ** 2 / 2;
  return 4 * pairs * heads * headDim;
}
