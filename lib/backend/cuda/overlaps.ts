import { dtypes } from "../../dtype.js";
import { sizeOf } from "../../shape.js";
import { type ArrayRef, Storage } from "../backend.js";
import type { CudaDevice } from "./device.js";

/** A piece of device memory. */
export interface Range {
  readonly address: number;
  readonly bytes: number;
}

/** Where an array, or all of a storage, lies. */
export function rangeOf(device: CudaDevice, of: ArrayRef | Storage): Range {
  const { storage, offset, shape } = of instanceof Storage ? { storage: of, offset: 0, shape: [of.size] } : of;
  return {
    address: device.address({ storage, offset, shape }),
    bytes: sizeOf(shape) * dtypes[storage.dtype].bytes,
  };
}

/**
 * How a kernel may begin while the one before it ends, for every block of it waits (griddepcontrol.wait), from sm_90 on: where it
 * "waits" before it touches any memory, always; else only behind another that says what it `writes`, and where it reads nothing
 * `ahead`, before it waits, that one of those writes. Empty: it waits first too, and the next one may read ahead.
 */
export type Overlap = "waits" | { readonly writes: readonly Range[]; readonly ahead: readonly Range[] };

/** Decides which kernels of a stream may begin early; told of everything that is enqueued, in order. */
export class Overlaps {
  /** What the last kernels write, all of them such as say so. */
  #written: Range[] | undefined;

  /** Takes note of a kernel and says whether it may begin early. */
  next(overlap: Overlap | undefined): boolean {
    if (overlap === undefined || overlap === "waits") {
      this.#written = undefined;
      return overlap === "waits";
    }
    const { writes, ahead } = overlap;
    const written = this.#written;
    const isEarly =
      ahead.length === 0 || (written !== undefined && !ahead.some((a) => written.some((w) => meet(a, w))));
    this.#written = written ?? [];
    this.#written.push(...writes);
    return isEarly;
  }

  /** Takes note of anything else. */
  other(): void {
    this.#written = undefined;
  }
}

function meet(a: Range, b: Range): boolean {
  return a.address < b.address + b.bytes && b.address < a.address + a.bytes;
}
