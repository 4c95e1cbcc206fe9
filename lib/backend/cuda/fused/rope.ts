import type { ArrayRef, FusedKernels, Rotation, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { CudaDevice } from "../device.js";
import type { Defines, Kernel } from "../kernels.js";
import { cType, indexLetter, indexType, loopGrid, packWidth } from "../launch.js";
import { rangeOf } from "../overlaps.js";

/** Cosines and sines of a rotation's angles on the device. */
interface Table {
  readonly positions: number;
  /** Addresses of [positions, headDim / 2] in f32. */
  readonly cos: number;
  readonly sin: number;
}

/** Heads of a token that one thread turns by the same angles. */
const HEADS = 4;
const DEFAULT_POSITIONS = 32768;

/** The tables of a device, each made when a rotation is first asked for. */
export type RopeTables = (rotation: Rotation) => Table;

export function ropeTables(device: CudaDevice): RopeTables {
  const tables = new Map<string, Table>();

  const makeTable = ({ theta, headDim }: Rotation, positions: number): Table => {
    const half = headDim / 2;
    const bytes = 4 * positions * half;
    const block = device.takeBytes(2 * bytes, "rope table");
    const frequencies = Float64Array.from({ length: half }, (_, j) => theta ** (-j / half));
    device.withScratch(8 * half, "rope frequencies", (address) => {
      device.copyIn(address, frequencies);
      const fn = device.kernels.get("rope", "rope_table", "pppii", { DTYPE: "float", VEC: 1, HEADS: 1, INDEX: "u32" });
      const grid = [Math.ceil((positions * half) / 256)] as const;
      device.launch(fn, [address, block.address, block.address + bytes, positions, half], { grid, block: 256 });
    });
    return {
      positions,
      cos: block.address,
      sin: block.address + bytes,
    };
  };
  return (rotation) => {
    const key = `${rotation.theta} ${rotation.headDim}`;
    const needed = rotation.maxPositions ?? DEFAULT_POSITIONS;
    const known = tables.get(key);
    if (known && known.positions >= needed) return known;
    // The one before stays: recordings (graph.ts) know its address.
    const table = makeTable(rotation, needed);
    tables.set(key, table);
    return table;
  };
}

type RopeKernels = Pick<FusedKernels, "rope" | "ropeToCache">;

export function ropeKernels({ device, empty }: CudaContext, tableFor: RopeTables): RopeKernels {
  /** Turns x into a new array, the result, by a kernel of which `rest` are the last arguments; it also touches `others`. */
  const run = (
    kernel: (index: "i" | "l", defines: Defines) => Kernel,
    x: ArrayRef,
    positions: ArrayRef,
    rotation: Rotation,
    rest: readonly number[],
    cache?: ArrayRef,
  ): Storage => {
    const { heads, kvHeads, headDim } = rotation;
    const [tokens, width] = x.shape;
    const half = headDim / 2;
    const y = empty(x.storage.dtype, tokens * width, "rope");
    const VEC = packWidth(device, half, x, ...(cache ? [cache] : []));
    const all = heads + 2 * kvHeads;
    const items = tokens * Math.ceil(all / HEADS) * (half / VEC);
    const letter = indexLetter(items);
    const { cos, sin, positions: known } = tableFor(rotation);
    const fn = kernel(letter, { DTYPE: cType("rope", x.storage.dtype), VEC, HEADS, INDEX: indexType[letter] });
    const out = device.address({ storage: y, offset: 0, shape: [] });
    const from = [device.address(x), all, heads + kvHeads, half, device.address(positions), cos, sin, known];
    device.launch(fn, [...from, out, items, ...rest], {
      grid: loopGrid(device, items, 256),
      block: 256,
      overlaps: { writes: [y, ...(cache ? [cache] : [])].map((written) => rangeOf(device, written)), ahead: [] },
      bytes: 4 * tokens * width,
    });
    return y;
  };
  const { kernels } = device;
  return {
    rope(x, positions, rotation, direction) {
      const kernel = (letter: string, defines: Defines) => kernels.get("rope", "rope", `piiipppip${letter}f`, defines);
      return run(kernel, x, positions, rotation, [direction]);
    },
    ropeToCache(x, { positions, rows }, rotation, cache) {
      const kernel = (letter: string, defines: Defines) =>
        kernels.get("rope", "rope_to_cache", `piiipppip${letter}ppii`, defines);
      const rest = [device.address(rows), device.address(cache), cache.shape[0], rotation.heads];
      return run(kernel, x, positions, rotation, rest, cache);
    },
  };
}
