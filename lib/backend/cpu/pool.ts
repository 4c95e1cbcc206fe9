import { type DType, dtypes, type TypedArray } from "../../dtype.js";
import type { MemoryUse } from "../backend.js";

/** How many bytes of freed buffers are kept for reuse at most. */
const MAX_IDLE_BYTES = 512 * 2 ** 20;
const SMALLEST = 64;

/**
 * Hands out typed arrays over recycled buffers, so that steps of the same work neither wait for the garbage collector
 * nor grow the heap. Sizes are rounded up to four classes a power of two. Contents are not cleared.
 */
export class BufferPool {
  readonly #idle = new Map<number, ArrayBuffer[]>();
  #idleBytes = 0;
  #bytes = 0;
  #buffers = 0;
  #peakBytes = 0;

  /** `poison`: freed buffers are filled with NaN patterns, so that a use after free shows. */
  constructor(readonly poison = false) {}

  allocate(dtype: DType, size: number): TypedArray {
    const bytes = sizeClass(size * dtypes[dtype].bytes);
    const reused = this.#idle.get(bytes)?.pop();
    if (reused) this.#idleBytes -= bytes;
    this.#bytes += bytes;
    this.#buffers++;
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
    return new dtypes[dtype].array(reused ?? new ArrayBuffer(bytes), 0, size);
  }

  free(array: TypedArray): void {
    const buffer = array.buffer as ArrayBuffer;
    const bytes = buffer.byteLength;
    this.#bytes -= bytes;
    this.#buffers--;
    if (this.poison) new Uint8Array(buffer).fill(0xff);
    if (this.#idleBytes + bytes > MAX_IDLE_BYTES) return;
    const list = this.#idle.get(bytes);
    if (list) list.push(buffer);
    else this.#idle.set(bytes, [buffer]);
    this.#idleBytes += bytes;
  }

  memory(): MemoryUse {
    return { bytes: this.#bytes, buffers: this.#buffers, peakBytes: this.#peakBytes };
  }

  /** Lets go of every idle buffer. */
  trim(): void {
    this.#idle.clear();
    this.#idleBytes = 0;
  }
}

function sizeClass(bytes: number): number {
  if (bytes <= SMALLEST) return SMALLEST;
  const quarter = 2 ** (Math.floor(Math.log2(bytes - 1)) - 2);
  return Math.ceil(bytes / quarter) * quarter;
}
