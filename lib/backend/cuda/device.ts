import koffi from "koffi";
import { type DType, dtypes, hostArray, type TypedArray } from "../../dtype.js";
import { InputError } from "../../errors.js";
import { sizeOf } from "../../shape.js";
import { type ArrayRef, type Backend, type MemoryUse, Storage } from "../backend.js";
import { CUDA_ERROR_NOT_READY, CUDA_SUCCESS, CudaError, cudaDriver, type Driver, out32, out64 } from "./driver.js";
import { type Block, DeviceHeap } from "./heap.js";
import { type Kernel, KernelLibrary } from "./kernels.js";
import { OverlappingLaunch } from "./overlappingLaunch.js";
import { type Overlap, Overlaps } from "./overlaps.js";
import { type PinnedBuffer, PinnedMemory } from "./pinned.js";

/** How a kernel is launched. */
export interface Launch {
  /** Blocks; a launch of none is left out. */
  readonly grid: readonly [x: number, y?: number, z?: number];
  /** Threads of a block. */
  readonly block: number;
  /** Bytes of dynamic shared memory. */
  readonly shared?: number;
  /** Whether the kernel may begin while the one before it ends; default: no. */
  readonly overlaps?: Overlap;
  /** Bytes moved and operations done, for `DEBUG=2`. */
  readonly bytes?: number;
  readonly flops?: number;
}

// CUdevice_attribute
const MULTIPROCESSORS = 16;
const CAPABILITY_MAJOR = 75;
const CAPABILITY_MINOR = 76;
const VIRTUAL_MEMORY = 102;

const STREAM_NON_BLOCKING = 1;
const EVENT_WITHOUT_TIMING = 2;

const SMALL_BYTES = 256 * 1024;
const SMALL_GROWTH = 8 * 2 ** 20;
const LARGE_GROWTH = 64 * 2 ** 20;
/** Uploads up to this go through page-locked memory, so that they do not wait for the stream. */
const STAGED_BYTES = 4 * 2 ** 20;
const ARGUMENT_BYTES = 4096;
/** Largest struct among the arguments. */
const STRUCT_BYTES = 256;
/** CUresult of faults inside kernels, which end the context: from CUDA_ERROR_ILLEGAL_ADDRESS on. */
const FIRST_FAULT = 700;
/** How many launches are remembered for the message of a kernel that trapped. */
const REMEMBERED = 12;

/** Those that are open: of one GPU, since the driver works on the context of the last that was opened. */
const open = new Set<CudaDevice>();

/** How many CUDA devices there are. */
export function cudaDeviceCount(): number {
  return out32((count) => cudaDriver().deviceGetCount(count));
}

/**
 * One GPU: a stream, memory, kernels, and the way to launch them. Everything is enqueued on one stream, in the order of
 * the calls; nothing waits except `synchronize`.
 */
export class CudaDevice {
  readonly driver: Driver = cudaDriver();
  readonly name: string;
  /** `sm_90a`; kernels are compiled for exactly this. */
  readonly architecture: string;
  readonly capability: number;
  readonly multiprocessors: number;
  readonly totalBytes: number;
  readonly stream: number;
  readonly kernels: KernelLibrary;

  readonly #device: number;
  readonly #small: DeviceHeap;
  readonly #large: DeviceHeap;
  readonly #pinned: PinnedMemory;
  /** Staging buffers in use, each until its event has passed. */
  readonly #staged: { readonly buffer: PinnedBuffer; readonly event: number }[] = [];
  readonly #idleEvents: number[] = [];
  readonly #arguments: DataView;
  readonly #argumentBytes: Uint8Array;
  readonly #argumentsAt: number;
  readonly #layouts = new Map<string, ArgumentLayout>();
  readonly #overlapping = new OverlappingLaunch();
  readonly #recent: string[] = [];
  readonly #waits = process.env.ITPO_CUDA_SYNC === "1";
  /** From 2 on every kernel is timed, waited for and printed. */
  debug = Number(process.env.DEBUG ?? 0);
  #bytes = 0;
  #buffers = 0;
  #peakBytes = 0;
  /** Kernels launched so far. */
  launches = 0;
  /** To be told of what is enqueued past `launch` and `timed`. */
  readonly overlaps = new Overlaps();
  /** Memory that was given back while work was being recorded (graph.ts): the recording still uses it. */
  #recorded: Block[] | undefined;

  constructor(readonly ordinal = 0) {
    const { driver } = this;
    const count = cudaDeviceCount();
    if (ordinal >= count) {
      const list = count === 1 ? "one device, cuda:0" : `${count} devices`;
      throw new InputError(`cuda:${ordinal} does not exist; there ${count === 0 ? "is no device" : `is ${list}`}`);
    }
    for (const other of open) {
      if (other.ordinal !== ordinal) {
        throw new InputError(`cuda:${ordinal}: cuda:${other.ordinal} is open; close it, or use a process for each GPU`);
      }
    }
    this.#device = out32((device) => driver.deviceGet(device, ordinal));
    const attribute = (which: number) => out32((value) => driver.deviceGetAttribute(value, which, this.#device));
    const name = new Uint8Array(256);
    driver.deviceGetName(name, name.length, this.#device);
    this.name = Buffer.from(name.subarray(0, name.indexOf(0))).toString("utf8");
    this.multiprocessors = attribute(MULTIPROCESSORS);
    this.capability = 10 * attribute(CAPABILITY_MAJOR) + attribute(CAPABILITY_MINOR);
    this.totalBytes = out64((bytes) => driver.deviceTotalMem(bytes, this.#device));
    this.architecture = this.capability === 90 ? "sm_90a" : `sm_${this.capability}`;
    if (this.capability < 80 || attribute(VIRTUAL_MEMORY) === 0) {
      throw new InputError(`cuda:${ordinal}: ${this.name} (${this.architecture}) is too old; it needs sm_80 or newer`);
    }
    driver.ctxSetCurrent(out64((context) => driver.primaryCtxRetain(context, this.#device)));
    this.stream = out64((stream) => driver.streamCreate(stream, STREAM_NON_BLOCKING));
    this.kernels = new KernelLibrary(driver, this.architecture);
    this.#small = new DeviceHeap(driver, this.#device, 2 ** 36, SMALL_GROWTH);
    this.#large = new DeviceHeap(driver, this.#device, 2 ** 40, LARGE_GROWTH);
    this.#pinned = new PinnedMemory(driver);

    const block = Number(koffi.alloc("uint8_t", ARGUMENT_BYTES + 64));
    this.#argumentsAt = Math.ceil(block / 64) * 64;
    this.#argumentBytes = new Uint8Array(koffi.view(this.#argumentsAt, ARGUMENT_BYTES));
    this.#arguments = new DataView(this.#argumentBytes.buffer);
    open.add(this);
  }

  /** Device memory of `bytes`; `label` says in an out-of-memory report what it is for. */
  takeBytes(bytes: number, label: string): Block {
    let block = this.tryTakeBytes(bytes, label);
    if (!block && !this.recording) {
      this.trim();
      block = this.tryTakeBytes(bytes, label);
    }
    if (!block) throw new Error(this.#outOfMemory(bytes, label));
    return block;
  }

  /** The same, or nothing where the device is full or in pieces: nothing waits, and none of what is held goes back. */
  tryTakeBytes(bytes: number, label: string): Block | undefined {
    const again = this.#recorded?.findIndex((block) => block.bytes >= bytes && block.bytes <= 2 * bytes + 512) ?? -1;
    if (again >= 0) return this.#recorded!.splice(again, 1)[0];
    const heap = bytes <= SMALL_BYTES ? this.#small : this.#large;
    const block = heap.allocate(bytes, label);
    if (!block) return undefined;
    this.#bytes += block.bytes;
    this.#buffers++;
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
    return block;
  }

  giveBytes(block: Block): void {
    if (this.#recorded) {
      this.#recorded.push(block);
      return;
    }
    this.#bytes -= block.bytes;
    this.#buffers--;
    (block.bytes <= SMALL_BYTES ? this.#small : this.#large).release(block);
  }

  /** Whether what is enqueued is being recorded: nothing may wait for the device then. */
  get recording(): boolean {
    return this.#recorded !== undefined;
  }

  /**
   * Runs `enqueue`, which is being recorded, and returns the memory that it gave back: only later launches of the same
   * recording may use that, until it is given back for good. After an error that is done here.
   */
  whileRecording(enqueue: () => void): Block[] {
    const blocks: Block[] = [];
    this.#recorded = blocks;
    this.overlaps.other();
    try {
      enqueue();
    } catch (error) {
      this.#recorded = undefined;
      for (const block of blocks) this.giveBytes(block);
      throw error;
    }
    this.#recorded = undefined;
    this.overlaps.other();
    return blocks;
  }

  /** A new storage with undefined contents. */
  allocate(backend: Backend, dtype: DType, size: number, label: string): Storage {
    return new Storage(backend, dtype, size, this.takeBytes(size * dtypes[dtype].bytes, label));
  }

  /** Runs `fn` with the address of `bytes` of working memory. */
  withScratch<T>(bytes: number, label: string, fn: (address: number) => T): T {
    const block = this.takeBytes(bytes, label);
    try {
      return fn(block.address);
    } finally {
      this.giveBytes(block);
    }
  }

  /** Enqueues a kernel. `args` follow its signature: numbers, and the bytes of structs. */
  launch(kernel: Kernel, args: readonly (number | Uint8Array)[], launch: Launch): void {
    const [x, y = 1, z = 1] = launch.grid;
    if (x === 0 || y === 0 || z === 0) return;
    const parameters = this.#pack(kernel, args);
    const { driver, stream } = this;
    const elapsed = this.#timer();
    const shared = launch.shared ?? 0;
    const isEarly = this.overlaps.next(launch.overlaps) && this.capability >= 90;
    const status = isEarly
      ? driver.launchKernelEx(
          this.#overlapping.with(x, y, z, launch.block, shared, stream),
          kernel.handle,
          parameters,
          0,
        )
      : driver.launchKernel(kernel.handle, x, y, z, launch.block, 1, 1, shared, stream, parameters, 0);
    if (status !== CUDA_SUCCESS) {
      const shape = `grid ${x}×${y}×${z}, block ${launch.block}, shared ${shared}`;
      this.#explained(() => driver.check("cuLaunchKernel", status, `kernel ${kernel.name}, ${shape}`));
    }
    this.ran(kernel.name);
    if (elapsed) printTime(kernel.name, elapsed(), launch);
  }

  /** Counts something that was enqueued, and remembers its name for error messages. */
  ran(name: string): void {
    this.launches++;
    if (this.#recent.push(name) > REMEMBERED) this.#recent.shift();
    if (this.#waits && !this.recording) this.synchronize(name);
  }

  /** Enqueues a library's work, under a name for error messages; with `DEBUG=2` times and prints it. */
  timed(name: string, work: Pick<Launch, "bytes" | "flops">, enqueue: () => void): void {
    const elapsed = this.#timer();
    enqueue();
    this.overlaps.other();
    this.ran(name);
    if (elapsed) printTime(name, elapsed(), work);
  }

  /** Copies host data into a new storage. */
  upload(backend: Backend, dtype: DType, data: TypedArray): Storage {
    const storage = this.allocate(backend, dtype, data.length, "upload");
    this.copyIn((storage.handle as Block).address, data);
    return storage;
  }

  /** Enqueues a copy of host data to a device address; the data may be overwritten at once. */
  copyIn(address: number, data: TypedArray): void {
    this.overlaps.other();
    if (data.byteLength === 0) return;
    if (data.byteLength > STAGED_BYTES) {
      this.driver.memcpyHtoD(address, data, data.byteLength, this.stream);
      return;
    }
    this.#reclaimStaged();
    const buffer = this.#pinned.take(data.byteLength);
    buffer.bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    this.driver.memcpyPinnedToD(address, buffer.address, data.byteLength, this.stream);
    this.#staged.push({ buffer, event: this.#recordEvent() });
  }

  /** Copies out; see Backend.download. */
  async download(x: ArrayRef): Promise<TypedArray> {
    const { dtype } = x.storage;
    const result = hostArray(dtype, sizeOf(x.shape));
    if (result.length === 0) return result;
    const buffer = this.#pinned.take(result.byteLength);
    this.#explained(() => this.driver.memcpyDtoH(buffer.address, this.address(x), result.byteLength, this.stream));
    await this.#passed(this.#recordEvent());
    new Uint8Array(result.buffer).set(buffer.bytes.subarray(0, result.byteLength));
    this.#pinned.give(buffer);
    return result;
  }

  /** Copies bytes out. Blocks this thread until all that was enqueued is done. */
  read(address: number, bytes: number): Uint8Array {
    const buffer = this.#pinned.take(bytes);
    this.driver.memcpyDtoH(buffer.address, address, bytes, this.stream);
    this.synchronize();
    const result = buffer.bytes.slice(0, bytes);
    this.#pinned.give(buffer);
    return result;
  }

  /** Device address of an array's first element. */
  address({ storage, offset }: ArrayRef): number {
    return (storage.handle as Block).address + offset * dtypes[storage.dtype].bytes;
  }

  /** Waits, blocking this thread, until everything that was enqueued is done. */
  synchronize(kernel?: string): void {
    this.#explained(() => this.driver.streamSynchronize(this.stream), kernel);
  }

  /** Milliseconds the device takes for what `enqueue` enqueues. Blocks this thread. */
  time(enqueue: () => void): number {
    const elapsed = this.#startTimer();
    enqueue();
    return elapsed();
  }

  memory(): MemoryUse {
    return { bytes: this.#bytes, buffers: this.#buffers, peakBytes: this.#peakBytes };
  }

  /** Physical device memory held, free parts included. */
  get heldBytes(): number {
    return this.#small.mapped + this.#large.mapped;
  }

  /** Gives free memory back to the device. Blocks until the stream is done. */
  trim(): void {
    this.synchronize();
    this.#small.trim();
    this.#large.trim();
  }

  /** Gives everything back, as far as the device still answers. Arrays on the device are gone. May be called twice. */
  close(): void {
    if (!open.delete(this)) return;
    try {
      this.driver.streamSynchronize(this.stream);
    } catch {
      // After a fault the context is lost, and with it all there is to give back.
      return;
    }
    this.#reclaimStaged();
    for (const event of this.#idleEvents.splice(0)) this.driver.eventDestroy(event);
    this.kernels.close();
    this.#pinned.close();
    this.#small.close();
    this.#large.close();
    this.driver.streamDestroy(this.stream);
    this.driver.primaryCtxRelease(this.#device);
  }

  /** Writes the arguments into host memory and returns the address of an array with the address of each. */
  #pack({ name, signature }: Kernel, args: readonly (number | Uint8Array)[]): number {
    if (args.length !== signature.length) {
      throw new Error(`kernel ${name}: ${args.length} arguments for the signature ${signature}`);
    }
    let layout = this.#layouts.get(signature);
    if (!layout) this.#layouts.set(signature, (layout = argumentLayout(signature, this.#argumentsAt)));
    const view = this.#arguments;
    for (let i = 0; i < args.length; i++) {
      const at = layout.offsets[i];
      const value = args[i] as number;
      switch (signature[i]) {
        case "i":
          view.setInt32(at, value, true);
          break;
        case "f":
          view.setFloat32(at, value, true);
          break;
        case "s":
          this.#argumentBytes.set(args[i] as Uint8Array, at);
          break;
        default: // p and l
          view.setUint32(at, value >>> 0, true);
          view.setInt32(at + 4, Math.floor(value / 2 ** 32), true);
      }
    }
    return layout.addresses;
  }

  /** Who holds what, the largest first. */
  #outOfMemory(bytes: number, label: string): string {
    const held = new Map<string, { bytes: number; count: number }>();
    for (const heap of [this.#small, this.#large]) {
      for (const block of heap.blocks()) {
        const entry = held.get(block.label) ?? { bytes: 0, count: 0 };
        held.set(block.label, { bytes: entry.bytes + block.bytes, count: entry.count + 1 });
      }
    }
    const gib = (amount: number) => `${(amount / 2 ** 30).toFixed(2)} GiB`;
    const rows = [...held].sort(([, a], [, b]) => b.bytes - a.bytes).slice(0, 12);
    const free = out64((result) => this.driver.memGetInfo(result, new BigUint64Array(1)));
    return [
      `cuda:${this.ordinal}: out of memory: ${label} asks for ${gib(bytes)}; arrays hold ${gib(this.#bytes)} of ` +
        `${gib(this.totalBytes)}, ${gib(free)} are free; use fewer tokens a micro-batch, recompute, or a smaller model`,
      ...rows.map(
        ([name, { bytes, count }]) => `  ${gib(bytes).padStart(12)} in ${String(count).padStart(5)}  ${name}`,
      ),
    ].join("\n");
  }

  #recordEvent(): number {
    const event = this.#idleEvents.pop() ?? out64((result) => this.driver.eventCreate(result, EVENT_WITHOUT_TIMING));
    this.driver.eventRecord(event, this.stream);
    return event;
  }

  /** Settles when the device has passed the event; the event loop goes on meanwhile. */
  #passed(event: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const poll = () => {
        const status = this.driver.eventQuery(event);
        if (status === CUDA_ERROR_NOT_READY) setImmediate(poll);
        else if (status === CUDA_SUCCESS) {
          this.#idleEvents.push(event);
          resolve();
        } else {
          try {
            this.#explained(() => this.driver.check("cuEventQuery", status));
          } catch (error) {
            reject(error);
          }
        }
      };
      poll();
    });
  }

  #reclaimStaged(): void {
    while (this.#staged.length > 0 && this.driver.eventQuery(this.#staged[0].event) === CUDA_SUCCESS) {
      const { buffer, event } = this.#staged.shift()!;
      this.#idleEvents.push(event);
      this.#pinned.give(buffer);
    }
  }

  /** With `DEBUG=2` a timer; what is only recorded takes no time, and cannot be waited for. */
  #timer(): (() => number) | undefined {
    return this.debug >= 2 && !this.recording ? this.#startTimer() : undefined;
  }

  /** Gives a function that waits for the device and says how many milliseconds it took for what was enqueued in between. */
  #startTimer(): () => number {
    const { driver, stream } = this;
    const [start, end] = [0, 0].map(() => out64((event) => driver.eventCreate(event, 0)));
    driver.eventRecord(start, stream);
    return () => {
      driver.eventRecord(end, stream);
      driver.eventSynchronize(end);
      const milliseconds = new Float32Array(1);
      driver.eventElapsedTime(milliseconds, start, end);
      driver.eventDestroy(start);
      driver.eventDestroy(end);
      return milliseconds[0];
    };
  }

  /** Runs `fn`; a fault of an earlier kernel that shows up in it names the kernels it may come from. */
  #explained(fn: () => void, kernel?: string): void {
    try {
      fn();
    } catch (error) {
      if (!(error instanceof CudaError) || error.status < FIRST_FAULT) throw error;
      const suspects = kernel
        ? `kernel ${kernel}`
        : `one of the last kernels: ${this.#recent.join(", ")}; run again with ITPO_CUDA_SYNC=1 to know which`;
      throw new CudaError(error.call, error.status, `${error.message.slice(error.call.length + 2)}; ${suspects}`);
    }
  }
}

function printTime(name: string, ms: number, { bytes, flops }: Pick<Launch, "bytes" | "flops">): void {
  const rates = [
    ...(bytes ? [`${(bytes / ms / 1e6).toFixed(0)} GB/s`] : []),
    ...(flops ? [`${(flops / ms / 1e9).toFixed(1)} TFLOP/s`] : []),
  ];
  process.stderr.write(`${name.padEnd(36)}${(ms * 1000).toFixed(1).padStart(10)} µs  ${rates.join("  ")}\n`);
}

/** Where the arguments of one signature lie. */
interface ArgumentLayout {
  readonly offsets: readonly number[];
  /** Address of the array of their addresses, as cuLaunchKernel wants it. */
  readonly addresses: number;
}

/** A place for each argument from `start` on: eight bytes, and `STRUCT_BYTES` at a multiple of 64 for a struct. */
function argumentLayout(signature: string, start: number): ArgumentLayout {
  let end = 0;
  const offsets = [...signature].map((letter) => {
    const offset = letter === "s" ? Math.ceil(end / 64) * 64 : end;
    end = offset + (letter === "s" ? STRUCT_BYTES : 8);
    return offset;
  });
  if (end > ARGUMENT_BYTES) throw new Error(`a kernel takes at most ${ARGUMENT_BYTES} bytes of arguments, not ${end}`);
  const addresses = Number(koffi.alloc("uint64_t", offsets.length));
  new BigUint64Array(koffi.view(addresses, 8 * offsets.length)).set(offsets.map((offset) => BigInt(start + offset)));
  return { offsets, addresses };
}
