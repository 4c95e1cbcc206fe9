import koffi from "koffi";
import type { Driver } from "./driver.js";

/** A bf16 matrix that kernels copy in boxes: how the copy engine of Hopper and later finds them. */
export interface TiledMatrix {
  readonly address: number;
  readonly rows: number;
  readonly columns: number;
  /** Elements from row to row. Default: columns. */
  readonly pitch?: number;
  readonly boxRows: number;
  /** Of the box; its rows fill those of the 128-, 64- or 32-byte swizzle. */
  readonly boxColumns: 64 | 32 | 16;
  /**
   * So many boxes that lie side by side come with one copy, one after the other: the map has a third coordinate, the number of
   * the first, which takes the place of the column. Columns must be a multiple of boxColumns.
   */
  readonly boxes?: number;
}

const MAP_BYTES = 128;
/** Maps that may be in use at once: a launch copies its own. */
const SLOTS = 16;
// CUtensorMapDataType, …L2promotion, and …swizzle by the columns of the box
const [BFLOAT16, PROMOTE_256B] = [9, 3];
const swizzles = { 16: 1, 32: 2, 64: 3 };

const slots: Uint8Array[] = [];
let next = 0;

/** The CUtensorMap of a row-major matrix, for the next launch. Rows and columns outside the matrix read as zeros. */
export function tensorMap(driver: Driver, matrix: TiledMatrix): Uint8Array {
  const { address, rows, columns, pitch = columns, boxRows, boxColumns, boxes } = matrix;
  if (slots.length === 0) {
    // The driver wants each at a multiple of 64 bytes.
    const start = Math.ceil(Number(koffi.alloc("uint8_t", MAP_BYTES * SLOTS + 64)) / 64) * 64;
    for (let i = 0; i < SLOTS; i++) slots.push(new Uint8Array(koffi.view(start + i * MAP_BYTES, MAP_BYTES)));
  }
  const map = slots[next++ % SLOTS];
  const across = boxes ? [boxColumns, rows, columns / boxColumns] : [columns, rows];
  driver.tensorMapEncodeTiled(
    map,
    BFLOAT16,
    across.length,
    address,
    BigUint64Array.from(across, BigInt),
    BigUint64Array.from(boxes ? [2 * pitch, 2 * boxColumns] : [2 * pitch], BigInt),
    Uint32Array.from(boxes ? [boxColumns, boxRows, boxes] : [boxColumns, boxRows]),
    new Uint32Array(across.length).fill(1),
    0,
    swizzles[boxColumns],
    PROMOTE_256B,
    0,
  );
  return map;
}
