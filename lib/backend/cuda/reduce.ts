import { type DType, dtypes } from "../../dtype.js";
import type { ArrayRef, Backend, ReduceOp, Storage } from "../backend.js";
import type { CudaContext } from "./context.js";
import { filled } from "./elementwise.js";
import type { Defines } from "./kernels.js";

const operations: Record<ReduceOp, string> = { sum: "Sum", max: "Max", argmax: "Argmax" };

/** Element types as kernels/reduce.cu sees them; bool wraps as u8 does. */
const types: Partial<Record<DType, string>> = {
  ...{ f32: "float", bf16: "bf16", f16: "f16", i32: "int", u32: "u32", u8: "u8", bool: "u8" },
};

const BLOCK = 256;
/** Elements of a row that one block reduces; longer rows are cut. */
const ROW_CHUNK = 16384;
/** Rows up to this length take a warp, not a block. */
const WARP_LENGTH = 1024;
/** Up to this many elements, 16 bytes apart at most, one thread reduces alone. */
const SHORT_ROW = 16;
const SHORT_COLUMN = 64;
/** Rows of a column that one thread reduces. */
const DEPTH = 16;

/** One launch: the entry, its macros, how many states each result is left in, and the blocks. */
interface Stage {
  readonly entry: "reduce_rows" | "reduce_columns" | "reduce_each";
  readonly defines: Defines;
  readonly parts: number;
  readonly threads: number;
  readonly blocks: number;
}

export function reduceOperations(context: CudaContext): Pick<Backend, "reduce"> {
  const { device, empty } = context;
  return {
    reduce(op, x, outer, length, inner) {
      const { dtype } = x.storage;
      const resultDtype = op === "argmax" ? "i32" : dtype;
      if (length === 0) {
        const value = op === "max" && dtypes[dtype].floating ? Number.NEGATIVE_INFINITY : 0;
        return filled(context, resultDtype, outer * inner, value, op);
      }
      const y = empty(resultDtype, outer * inner, op);
      if (y.size > 0) reduceStages(op, x, y, outer, length, inner);
      return y;
    },
  };

  function reduceStages(op: ReduceOp, x: ArrayRef, y: Storage, outer: number, length: number, inner: number): void {
    const { dtype } = x.storage;
    const { floating, bytes } = dtypes[dtype];
    const type = types[dtype];
    if (!type) throw new Error(`${op}: cuda has no ${dtype}`);
    const stateBytes = (floating ? 4 : 8) * (op === "argmax" ? 2 : 1);
    const target = device.address({ storage: y, offset: 0, shape: [] });

    const step = (from: number, elementBytes: number, count: number): void => {
      const first = from === device.address(x);
      const stage = stageOf(outer, count, inner, 16 / elementBytes);
      const { entry, parts, threads, blocks } = stage;
      const isRows = entry === "reduce_rows";
      const packed = from % 16 === 0 && ((isRows ? count : inner) * elementBytes) % 16 === 0;
      const defines = {
        ...{ DTYPE: type, OPERATION: operations[op], FLOATING: floating ? 1 : 0 },
        ...{ FIRST: first ? 1 : 0, LAST: parts === 1 ? 1 : 0, PACKED: packed ? 1 : 0 },
        ...{ WIDTH: 32, COLUMNS: 32, LANES: 1, CHUNK: 1, ...stage.defines },
      };
      const sizes = [outer, count, ...(isRows ? [] : [inner]), ...(entry === "reduce_each" ? [] : [parts])];
      const kernel = device.kernels.get("reduce", entry, `pp${"l".repeat(sizes.length)}`, defines);
      const launch = (to: number) =>
        device.launch(kernel, [from, to, ...sizes], {
          grid: [blocks],
          block: threads,
          bytes: outer * count * inner * elementBytes,
        });
      if (parts === 1) launch(target);
      else {
        device.withScratch(outer * parts * inner * stateBytes, `${op} scratch`, (partial) => {
          launch(partial);
          step(partial, stateBytes, parts);
        });
      }
    };
    step(device.address(x), bytes, length);
  }
}

/** How [outer, length, inner] is reduced; what is added in which order depends on length and inner alone. */
function stageOf(outer: number, length: number, inner: number, vec: number): Stage {
  const packs = Math.ceil(inner / vec);
  if (inner === 1 ? length <= SHORT_ROW : packs < 32 && length <= SHORT_COLUMN) {
    const blocks = Math.ceil((outer * inner) / BLOCK);
    return { entry: "reduce_each", defines: {}, parts: 1, threads: BLOCK, blocks };
  }
  if (inner === 1) {
    const WIDTH = length <= WARP_LENGTH ? 32 : BLOCK;
    const parts = Math.ceil(length / ROW_CHUNK);
    const blocks = Math.ceil((outer * parts * WIDTH) / BLOCK);
    return { entry: "reduce_rows", defines: { WIDTH, CHUNK: ROW_CHUNK }, parts, threads: BLOCK, blocks };
  }
  const COLUMNS = Math.min(32, powerOfTwo(packs));
  const LANES = Math.min(BLOCK / COLUMNS, powerOfTwo(length / 4));
  const parts = Math.ceil(length / (DEPTH * LANES));
  return {
    entry: "reduce_columns",
    defines: { COLUMNS, LANES, CHUNK: DEPTH * LANES },
    parts,
    threads: COLUMNS * LANES,
    blocks: outer * parts * Math.ceil(packs / COLUMNS),
  };
}

/** The smallest power of two that is not below a number, 1 at least. */
function powerOfTwo(x: number): number {
  return 2 ** Math.max(0, Math.ceil(Math.log2(x)));
}
