import koffi from "koffi";
import { type Driver, out64 } from "./driver.js";

/** Page-locked host memory, which the device reads and writes without stopping this thread. */
export interface PinnedBuffer {
  readonly address: number;
  readonly bytes: Uint8Array;
}

const SMALLEST = 4096;
/** Larger buffers are given back at once instead of being kept. */
const LARGEST_KEPT = 64 * 2 ** 20;

/** Hands out page-locked buffers, in sizes that are powers of two. */
export class PinnedMemory {
  readonly #idle = new Map<number, PinnedBuffer[]>();

  constructor(private readonly driver: Driver) {}

  take(bytes: number): PinnedBuffer {
    const size = Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(bytes)));
    const kept = this.#idle.get(size)?.pop();
    if (kept) return kept;
    const address = out64((result) => this.driver.memHostAlloc(result, size, 0));
    return { address, bytes: new Uint8Array(koffi.view(address, size)) };
  }

  give(buffer: PinnedBuffer): void {
    const size = buffer.bytes.length;
    if (size > LARGEST_KEPT) {
      this.driver.memFreeHost(buffer.address);
      return;
    }
    const list = this.#idle.get(size);
    if (list) list.push(buffer);
    else this.#idle.set(size, [buffer]);
  }

  close(): void {
    for (const { address } of [...this.#idle.values()].flat()) this.driver.memFreeHost(address);
    this.#idle.clear();
  }
}
