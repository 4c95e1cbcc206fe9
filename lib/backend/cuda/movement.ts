import { dtypes } from "../../dtype.js";
import { type Shape, sizeOf } from "../../shape.js";
import type { ArrayRef, Backend, Storage } from "../backend.js";
import { mergeAxes, stridesOf, wordBytes, words } from "./axes.js";
import type { CudaContext } from "./context.js";
import { clearBytes, copyBytes } from "./copies.js";
import { loopGrid } from "./launch.js";

type Movement = Pick<Backend, "permute" | "slice" | "concat" | "pick" | "unpick" | "assign">;

/** One side of a copy: where it begins, and its strides in elements. */
interface Side {
  readonly address: number;
  readonly strides: readonly number[];
}

const BLOCK = 256;
/** Below this a side of a transpose is copied element by element: most of a tile would be empty. */
const SMALLEST_SIDE = 16;

export function movementOperations(context: CudaContext): Movement {
  const { device, empty } = context;
  const addressOf = (storage: Storage) => device.address({ storage, offset: 0, shape: [] });
  const bytesOf = (x: ArrayRef) => dtypes[x.storage.dtype].bytes as 1 | 2 | 4;
  const single = (entry: "pick" | "unpick", x: ArrayRef, index: ArrayRef, y: Storage, columns: number): Storage => {
    const n = sizeOf(index.shape);
    const kernel = device.kernels.get("movement", entry, "pppii", defines(bytesOf(x), 1, "u32"));
    device.launch(kernel, [device.address(x), device.address(index), addressOf(y), n, columns], {
      grid: [Math.ceil(n / BLOCK)],
      block: BLOCK,
      bytes: n * (4 + 2 * bytesOf(x)),
    });
    return y;
  };

  return {
    permute(x, axes) {
      const y = empty(x.storage.dtype, sizeOf(x.shape), "permute");
      const shape = axes.map((axis) => x.shape[axis]);
      const strides = stridesOf(x.shape);
      const from = { address: device.address(x), strides: axes.map((axis) => strides[axis]) };
      const to = { address: addressOf(y), strides: stridesOf(shape) };
      if (!transpose(context, bytesOf(x), shape, from, to)) copy(context, bytesOf(x), shape, from, to);
      return y;
    },
    slice(x, starts, sizes) {
      const y = empty(x.storage.dtype, sizeOf(sizes), "slice");
      const strides = stridesOf(x.shape);
      const start = starts.reduce((sum, at, i) => sum + at * strides[i], 0);
      const from = { address: device.address(x) + start * bytesOf(x), strides };
      copy(context, bytesOf(x), sizes, from, { address: addressOf(y), strides: stridesOf(sizes) });
      return y;
    },
    concat(parts, outer, lengths, inner) {
      const row = inner * lengths.reduce((sum, length) => sum + length, 0);
      const y = empty(parts[0].storage.dtype, outer * row, "concat");
      let address = addressOf(y);
      parts.forEach((part, i) => {
        const width = lengths[i] * inner;
        const from = { address: device.address(part), strides: [width, 1] };
        copy(context, bytesOf(part), [outer, width], from, { address, strides: [row, 1] });
        address += width * bytesOf(part);
      });
      return y;
    },
    pick: (x, index) => single("pick", x, index, empty(x.storage.dtype, sizeOf(index.shape), "pick"), x.shape[1]),
    unpick(x, index, columns) {
      const y = empty(x.storage.dtype, sizeOf(index.shape) * columns, "unpick");
      if (y.size > 0) clearBytes(device, addressOf(y), y.size * bytesOf(x));
      return single("unpick", x, index, y, columns);
    },
    assign(target, source) {
      const bytes = sizeOf(target.shape) * bytesOf(target);
      if (bytes > 0) copyBytes(device, device.address(target), device.address(source), bytes);
    },
  };
}

/** Copies `shape` elements of `bytes` each in the widest words that the addresses and strides allow. */
function copy({ device }: CudaContext, bytes: number, shape: Shape, from: Side, to: Side): void {
  const size = sizeOf(shape) * bytes;
  if (size === 0) return;
  const inBytes = ({ strides }: Side) => [...strides.map((stride) => stride * bytes), 1];
  const merged = mergeAxes([...shape, bytes], [inBytes(from), inBytes(to)]);
  const together = merged.strides.every((strides) => strides.at(-1) === 1);
  if (merged.shape.length === 0 || (together && merged.shape.length === 1)) {
    copyBytes(device, to.address, from.address, size);
    return;
  }
  // What lies together on both sides is cut into words; all other axes are walked.
  const outer = merged.shape.slice(0, together ? -1 : undefined);
  const run = together ? merged.shape[outer.length] : 1;
  const [read, write] = merged.strides.map((strides) => strides.slice(0, outer.length));
  const word = wordBytes(run, from.address, to.address, ...read, ...write);
  const walk = mergeAxes(
    [...outer, run / word],
    [read, write].map((strides) => [...strides.map((s) => s / word), 1]),
  );
  const rank = walk.shape.length;
  const count = size / word;
  const index = indexFor(count, walk.shape, ...walk.strides);
  const letter = index === "u32" ? "i" : "l";
  const kernel = device.kernels.get("movement", "copy_strided", `pp${letter}s`, defines(word, rank, index));
  device.launch(kernel, [from.address, to.address, count, axesStruct(index, walk.shape, ...walk.strides)], {
    grid: loopGrid(device, count, BLOCK),
    block: BLOCK,
    bytes: 2 * size,
  });
}

/** Copies where the last axes of the two sides differ and both are long: tiles through shared memory. False where not. */
function transpose({ device }: CudaContext, bytes: 1 | 2 | 4, shape: Shape, from: Side, to: Side): boolean {
  const merged = mergeAxes(shape, [from.strides, to.strides]);
  const [read, write] = merged.strides;
  const last = merged.shape.length - 1;
  const other = read.indexOf(1);
  if (last < 1 || other < 0 || other === last) return false;
  const [rows, columns] = [merged.shape[last], merged.shape[other]];
  if (Math.min(rows, columns) < SMALLEST_SIDE) return false;
  const rest = merged.shape.flatMap((_, axis) => (axis === last || axis === other ? [] : [axis]));
  const walked = (list: readonly number[], none: number) => (rest.length ? rest.map((axis) => list[axis]) : [none]);
  const batch = walked(merged.shape, 1);
  const size = sizeOf(shape);
  const index = indexFor(size, merged.shape, read, write);
  const tile = tileOf(bytes);
  const letter = index === "u32" ? "i" : "l";
  const signature = `pp${letter.repeat(4)}s`;
  const kernel = device.kernels.get("movement", "transpose", signature, defines(bytes, batch.length, index));
  const axes = axesStruct(index, batch, walked(read, 0), walked(write, 0));
  device.launch(kernel, [from.address, to.address, rows, columns, read[last], write[other], axes], {
    grid: [Math.ceil(rows / tile) * Math.ceil(columns / tile) * sizeOf(batch)],
    block: BLOCK,
    bytes: 2 * size * bytes,
  });
  return true;
}

/** `struct Axes` of kernels/movement.cu. */
function axesStruct(index: "u32" | "u64", ...lists: readonly (readonly number[])[]): Uint8Array {
  const values = lists.flat();
  const words = index === "u32" ? Uint32Array.from(values) : BigUint64Array.from(values, BigInt);
  return new Uint8Array(words.buffer);
}

function tileOf(bytes: number): number {
  return bytes < 4 ? 64 : 32;
}

function defines(bytes: 1 | 2 | 4 | 8 | 16, rank: number, index: "u32" | "u64") {
  return { WORD: words[bytes], RANK: rank, INDEX: index, TILE: tileOf(bytes) };
}

/** The type that counts `size` elements and reaches the last of them. */
function indexFor(size: number, shape: Shape, ...strides: readonly (readonly number[])[]): "u32" | "u64" {
  const reach = (own: readonly number[]) => own.reduce((sum, stride, i) => sum + stride * (shape[i] - 1), 0);
  return Math.max(size, ...strides.map(reach)) < 2 ** 31 ? "u32" : "u64";
}
