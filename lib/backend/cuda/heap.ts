import { CUDA_ERROR_OUT_OF_MEMORY, type Driver, out64 } from "./driver.js";

/** A piece of device memory, taken or free; neighbours in address order are linked. */
export interface Block {
  readonly address: number;
  bytes: number;
  free: boolean;
  previous: Block | undefined;
  next: Block | undefined;
  /** Who asked for it. */
  label: string;
}

const ALIGNMENT = 512;
const roundUp = (bytes: number, unit: number) => Math.ceil(bytes / unit) * unit;

/**
 * Device memory handed out in address order of one reserved range. Physical memory is mapped at its end as the need
 * grows, so that the range never falls apart into segments. Best fit, free neighbours are joined. Work on one stream is
 * ordered: a block may be handed out again at once.
 */
export class DeviceHeap {
  readonly #base: number;
  readonly #mappings: { readonly address: number; readonly bytes: number; readonly handle: bigint }[] = [];
  /** Free blocks, the smallest first; equals by address. */
  readonly #free: Block[] = [];
  #last: Block | undefined;
  #mapped = 0;

  constructor(
    private readonly driver: Driver,
    private readonly device: number,
    /** Bytes of address space to reserve. */
    private readonly reserved: number,
    /** Bytes that are mapped at once at least. */
    private readonly growth: number,
  ) {
    this.#base = out64((address) => driver.memAddressReserve(address, reserved, 0, 0, 0));
  }

  /** Bytes of physical memory held. */
  get mapped(): number {
    return this.#mapped;
  }

  /** A block of at least `bytes`, or undefined where the device has no memory left. */
  allocate(bytes: number, label: string): Block | undefined {
    const size = roundUp(Math.max(bytes, 1), ALIGNMENT);
    let at = this.#firstOfSize(size);
    if (at === this.#free.length) {
      if (!this.#grow(size)) return undefined;
      at = this.#firstOfSize(size);
    }
    const [block] = this.#free.splice(at, 1);
    if (block.bytes > size) this.#split(block, size);
    block.free = false;
    block.label = label;
    return block;
  }

  release(block: Block): void {
    let merged = block;
    merged.free = true;
    const { next, previous } = merged;
    if (next?.free) {
      this.#drop(next);
      this.#join(merged, next);
    }
    if (previous?.free) {
      this.#drop(previous);
      this.#join(previous, merged);
      merged = previous;
    }
    this.#insert(merged);
  }

  /** Gives physical memory that is free at the end of the range back to the device. The device must be idle. */
  trim(): void {
    for (let mapping = this.#mappings.at(-1); mapping; mapping = this.#mappings.at(-1)) {
      const tail = this.#last;
      if (!tail?.free || tail.address > mapping.address) return;
      this.#drop(tail);
      tail.bytes = mapping.address - tail.address;
      if (tail.bytes > 0) this.#insert(tail);
      else {
        this.#last = tail.previous;
        if (this.#last) this.#last.next = undefined;
      }
      this.driver.memUnmap(mapping.address, mapping.bytes);
      this.driver.memRelease(mapping.handle);
      this.#mapped -= mapping.bytes;
      this.#mappings.pop();
    }
  }

  /** Blocks in use. */
  *blocks(): Iterable<Block> {
    for (let block = this.#last; block; block = block.previous) if (!block.free) yield block;
  }

  /** Unmaps everything, taken or not, and gives the address range back. */
  close(): void {
    for (const { address, bytes, handle } of this.#mappings.splice(0)) {
      this.driver.memUnmap(address, bytes);
      this.driver.memRelease(handle);
    }
    this.driver.memAddressFree(this.#base, this.reserved);
    this.#free.length = 0;
    this.#last = undefined;
    this.#mapped = 0;
  }

  #grow(size: number): boolean {
    const address = this.#base + this.#mapped;
    const spare = this.#last?.free ? this.#last.bytes : 0;
    for (const wanted of [roundUp(Math.max(size - spare, this.growth), GRANULE), roundUp(size - spare, GRANULE)]) {
      if (this.#mapped + wanted > this.reserved) continue;
      const handle = new BigUint64Array(1);
      const status = this.driver.memCreate(handle, wanted, allocationProperties(this.device), 0);
      if (status === CUDA_ERROR_OUT_OF_MEMORY) continue;
      this.driver.check("cuMemCreate", status, `${wanted} bytes`);
      this.driver.memMap(address, wanted, 0, handle[0], 0);
      this.driver.memSetAccess(address, wanted, accessDescriptor(this.device), 1);
      this.#mappings.push({ address, bytes: wanted, handle: handle[0] });
      this.#mapped += wanted;
      const block: Block = { address, bytes: wanted, free: true, previous: this.#last, next: undefined, label: "" };
      if (this.#last) this.#last.next = block;
      this.#last = block;
      this.release(block);
      return true;
    }
    return false;
  }

  #split(block: Block, bytes: number): void {
    const rest: Block = {
      address: block.address + bytes,
      bytes: block.bytes - bytes,
      free: true,
      previous: block,
      next: block.next,
      label: "",
    };
    if (block.next) block.next.previous = rest;
    else this.#last = rest;
    block.next = rest;
    block.bytes = bytes;
    this.#insert(rest);
  }

  /** Makes `second` part of `first`, its left neighbour. */
  #join(first: Block, second: Block): void {
    first.bytes += second.bytes;
    first.next = second.next;
    if (second.next) second.next.previous = first;
    else this.#last = first;
  }

  /** Index of the first free block that is not before (bytes, address). */
  #search(bytes: number, address: number): number {
    let [low, high] = [0, this.#free.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const block = this.#free[middle];
      if (block.bytes < bytes || (block.bytes === bytes && block.address < address)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #firstOfSize(bytes: number): number {
    return this.#search(bytes, 0);
  }

  #insert(block: Block): void {
    this.#free.splice(this.#search(block.bytes, block.address), 0, block);
  }

  #drop(block: Block): void {
    this.#free.splice(this.#search(block.bytes, block.address), 1);
  }
}

/** Physical memory comes in multiples of this. */
const GRANULE = 2 * 2 ** 20;

/** CUmemAllocationProp: pinned memory on one device. */
function allocationProperties(device: number): Uint8Array {
  const bytes = new Uint8Array(32);
  const view = new DataView(bytes.buffer);
  view.setInt32(0, 1, true); // CU_MEM_ALLOCATION_TYPE_PINNED
  view.setInt32(8, 1, true); // CU_MEM_LOCATION_TYPE_DEVICE
  view.setInt32(12, device, true);
  return bytes;
}

/** CUmemAccessDesc: the device reads and writes. */
function accessDescriptor(device: number): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setInt32(0, 1, true);
  view.setInt32(4, device, true);
  view.setInt32(8, 3, true); // CU_MEM_ACCESS_FLAGS_PROT_READWRITE
  return bytes;
}
