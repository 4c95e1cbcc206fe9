import { type DType, dtypes } from "../../dtype.js";
import { sizeOf } from "../../shape.js";
import type { ArrayRef, Backend, FusedKernels, Storage } from "../backend.js";
import { wordBytes, words } from "./axes.js";
import type { CudaContext } from "./context.js";
import { clearBytes } from "./copies.js";
import { cType, loopGrid, packWidth } from "./launch.js";

type Rows = Pick<Backend, "gatherRows" | "scatterRows" | "setRows"> & Pick<FusedKernels, "scatterRowsWide">;

const BLOCK = 256;
/** Packs of one row that a thread of scatter_rows keeps. */
const PACKS = 2;

/** Rows of a matrix by index. An index outside the matrix stops the program. */
export function rowOperations({ device, empty }: CudaContext): Rows {
  const whole = (storage: Storage, shape: readonly number[]): ArrayRef => ({ storage, offset: 0, shape });
  const bytesOf = (x: ArrayRef) => dtypes[x.storage.dtype].bytes;

  /** Copies one row an index; `matrix` is what the index counts in, `other` the rows of `index`. */
  const copyRows = (entry: "gather_rows" | "set_rows", matrix: ArrayRef, index: ArrayRef, other: ArrayRef): void => {
    const [rows, columns] = matrix.shape;
    const row = columns * bytesOf(matrix);
    const bytes = sizeOf(index.shape) * row;
    if (bytes === 0) return;
    const word = wordBytes(row, device.address(matrix), device.address(other));
    const size = bytes / word;
    const [counter, letter] = size < 2 ** 31 ? ["u32", "i"] : ["u64", "l"];
    const defines = { WORD: words[word], INDEX: counter };
    const kernel = device.kernels.get("rows", entry, `ppp${letter}${letter}i`, defines);
    const [m, i, o] = [matrix, index, other].map((array) => device.address(array));
    device.launch(kernel, [m, i, o, size, row / word, rows], {
      grid: loopGrid(device, size, BLOCK),
      block: BLOCK,
      overlaps: "waits",
      bytes: 2 * bytes,
    });
  };

  /** y [rows, columns] gets, or with `into` is raised by, the sums of x's rows by index. */
  const scatter = (x: ArrayRef, index: ArrayRef, y: ArrayRef, into: boolean): void => {
    const [rows, columns] = y.shape;
    const n = sizeOf(index.shape);
    if (n === 0 || columns === 0) return;
    const vec = packWidth(device, columns, x, y);
    const packs = Math.min(PACKS, Math.ceil(columns / (vec * BLOCK)));
    const defines = {
      ...{ DTYPE: elementType(x), OUT: elementType(y) },
      ...{ INTO: into ? 1 : 0, VEC: vec, PACKS: packs },
    };
    const kernel = device.kernels.get("rows", "scatter_rows", "pppiii", defines);
    const [from, i, to] = [x, index, y].map((array) => device.address(array));
    device.launch(kernel, [from, i, to, n, columns, rows], {
      grid: [n, Math.ceil(columns / (vec * packs * BLOCK))],
      block: BLOCK,
      bytes: n * columns * (bytesOf(x) + (into ? 2 : 1) * bytesOf(y)),
    });
  };
  const elementType = ({ storage: { dtype } }: ArrayRef) => (dtype === "i32" ? "int" : cType("scatterRows", dtype));
  const scatterInto = (dtype: DType, x: ArrayRef, index: ArrayRef, rows: number): Storage => {
    const columns = x.shape[1];
    const y = whole(empty(dtype, rows * columns, "scatterRows"), [rows, columns]);
    if (y.storage.size > 0) clearBytes(device, device.address(y), y.storage.size * bytesOf(y));
    scatter(x, index, y, false);
    return y.storage;
  };

  return {
    gatherRows(x, index) {
      const shape = [sizeOf(index.shape), x.shape[1]];
      const y = whole(empty(x.storage.dtype, sizeOf(shape), "gatherRows"), shape);
      copyRows("gather_rows", x, index, y);
      return y.storage;
    },
    /** Where an index stands twice, which of its rows stays is not defined. */
    setRows: (target, index, source) => copyRows("set_rows", target, index, source),
    scatterRows: (x, index, rows) => scatterInto(x.storage.dtype, x, index, rows),
    scatterRowsWide(x, index, rows, into) {
      if (!into) return scatterInto("f32", x, index, rows);
      scatter(x, index, into, true);
      return into.storage;
    },
  };
}
