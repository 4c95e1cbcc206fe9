import { type DType, dtypes, type TypedArray } from "../../dtype.js";
import type { MemoryUse } from "../backend.js";

/** Bytes of one slab; a larger array has a slab of its own. The C library maps so much by itself and touches none of it. */
const SLAB = 32 * 2 ** 20;
/** How many bytes of slabs with nothing in them are kept for reuse at most. */
const MAX_IDLE_BYTES = 512 * 2 ** 20;
/** Blocks start and end on cache lines. */
const UNIT = 64;

/** A piece of a slab, taken or free; neighbours in the slab are linked. */
interface Block {
  readonly slab: Slab;
  readonly start: number;
  bytes: number;
  free: boolean;
  previous: Block | undefined;
  next: Block | undefined;
}

interface Slab {
  readonly buffer: ArrayBuffer;
  /** Which slab was opened first: free blocks of equal size are taken in this order. */
  readonly number: number;
  /** Taken blocks by their start. */
  readonly taken: Map<number, Block>;
}

/**
 * Hands out typed arrays over pieces of large buffers, so that steps of about the same work neither wait for the garbage
 * collector nor make the process grow, whatever sizes they ask for: the best fitting piece is taken and free neighbours are
 * joined. Contents are not cleared.
 */
export class BufferPool {
  readonly #slabs = new Map<ArrayBufferLike, Slab>();
  /** Free blocks, the smallest first; equals by slab and start. */
  readonly #free: Block[] = [];
  #opened = 0;
  #bytes = 0;
  #buffers = 0;
  #peakBytes = 0;

  /** `poison`: freed memory is filled with NaN patterns, so that a use after free shows. */
  constructor(readonly poison = false) {}

  allocate(dtype: DType, size: number): TypedArray {
    const bytes = roundUp(Math.max(1, size * dtypes[dtype].bytes), UNIT);
    let at = this.#search(bytes, -1, 0);
    if (at === this.#free.length) {
      this.#open(bytes);
      at = this.#search(bytes, -1, 0);
    }
    const [block] = this.#free.splice(at, 1);
    if (block.bytes > bytes) this.#split(block, bytes);
    block.free = false;
    const { slab, start } = block;
    slab.taken.set(start, block);
    this.#bytes += bytes;
    this.#buffers++;
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
    return new dtypes[dtype].array(slab.buffer, start, size);
  }

  /** Takes back an array that `allocate` gave, not another view of it. */
  free(array: TypedArray): void {
    const slab = this.#slabs.get(array.buffer);
    const block = slab?.taken.get(array.byteOffset);
    if (!slab || !block) throw new Error("BufferPool: this array is not the pool's, or was freed before");
    slab.taken.delete(block.start);
    this.#bytes -= block.bytes;
    this.#buffers--;
    if (this.poison) new Uint8Array(slab.buffer, block.start, block.bytes).fill(0xff);
    this.#release(block);
    if (slab.taken.size === 0 && this.#idleBytes() > MAX_IDLE_BYTES) this.#close(slab);
  }

  memory(): MemoryUse {
    return { bytes: this.#bytes, buffers: this.#buffers, peakBytes: this.#peakBytes };
  }

  /** Lets go of every slab with nothing in it. */
  trim(): void {
    for (const slab of this.#slabs.values()) if (slab.taken.size === 0) this.#close(slab);
  }

  #open(bytes: number): void {
    const buffer = new ArrayBuffer(roundUp(bytes, SLAB));
    const slab: Slab = { buffer, number: this.#opened++, taken: new Map() };
    this.#slabs.set(buffer, slab);
    this.#insert({ slab, start: 0, bytes: buffer.byteLength, free: true, previous: undefined, next: undefined });
  }

  #close(slab: Slab): void {
    this.#free.splice(this.#search(slab.buffer.byteLength, slab.number, 0), 1);
    this.#slabs.delete(slab.buffer);
  }

  #idleBytes(): number {
    let bytes = 0;
    for (const { buffer, taken } of this.#slabs.values()) if (taken.size === 0) bytes += buffer.byteLength;
    return bytes;
  }

  #split(block: Block, bytes: number): void {
    const { slab, start, next } = block;
    const rest = { slab, start: start + bytes, bytes: block.bytes - bytes, free: true, previous: block, next };
    if (next) next.previous = rest;
    block.next = rest;
    block.bytes = bytes;
    this.#insert(rest);
  }

  #release(block: Block): void {
    let merged = block;
    const { previous, next } = block;
    if (next?.free) {
      this.#drop(next);
      join(merged, next);
    }
    if (previous?.free) {
      this.#drop(previous);
      join(previous, merged);
      merged = previous;
    }
    merged.free = true;
    this.#insert(merged);
  }

  /** Index of the first free block that is not before (bytes, slab, start). */
  #search(bytes: number, slab: number, start: number): number {
    let [low, high] = [0, this.#free.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const block = this.#free[middle];
      const order = block.bytes - bytes || block.slab.number - slab || block.start - start;
      if (order < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #insert(block: Block): void {
    this.#free.splice(this.#search(block.bytes, block.slab.number, block.start), 0, block);
  }

  #drop(block: Block): void {
    this.#free.splice(this.#search(block.bytes, block.slab.number, block.start), 1);
  }
}

/** Makes `second` part of `first`, its left neighbour. */
function join(first: Block, second: Block): void {
  first.bytes += second.bytes;
  first.next = second.next;
  if (second.next) second.next.previous = first;
}

function roundUp(bytes: number, unit: number): number {
  return Math.ceil(bytes / unit) * unit;
}
