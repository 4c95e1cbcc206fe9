import koffi from "koffi";
import type { Driver } from "./driver.js";

/** A bf16 matrix that kernels copy in boxes of 128-byte rows: how the copy engine of Hopper and later finds them. */
export interface TiledMatrix {
  readonly address: number;
  readonly rows: number;
  readonly columns: number;
  /** Elements from row to row. Default: columns. */
  readonly pitch?: number;
  /** Of the box; 64 columns of bf16 fill a row of the 128-byte swizzle. */
  readonly boxRows: number;
  readonly boxColumns: number;
}

const MAP_BYTES = 128;
/** Maps that may be in use at once: a launch copies its own. */
const SLOTS = 16;
// CUtensorMapDataType, …Swizzle, …L2promotion
const [BFLOAT16, SWIZZLE_128B, PROMOTE_256B] = [9, 3, 3];

const slots: Uint8Array[] = [];
let next = 0;

/** The CUtensorMap of a row-major matrix, for the next launch. Rows and columns outside the matrix read as zeros. */
export function tensorMap(driver: Driver, matrix: TiledMatrix): Uint8Array {
  const { address, rows, columns, pitch = columns, boxRows, boxColumns } = matrix;
  if (slots.length === 0) {
    // The driver wants each at a multiple of 64 bytes.
    const start = Math.ceil(Number(koffi.alloc("uint8_t", MAP_BYTES * SLOTS + 64)) / 64) * 64;
    for (let i = 0; i < SLOTS; i++) slots.push(new Uint8Array(koffi.view(start + i * MAP_BYTES, MAP_BYTES)));
  }
  const map = slots[next++ % SLOTS];
  driver.tensorMapEncodeTiled(
    map,
    BFLOAT16,
    2,
    address,
    BigUint64Array.of(BigInt(columns), BigInt(rows)),
    BigUint64Array.of(BigInt(2 * pitch)),
    Uint32Array.of(boxColumns, boxRows),
    Uint32Array.of(1, 1),
    0,
    SWIZZLE_128B,
    PROMOTE_256B,
    0,
  );
  return map;
}
