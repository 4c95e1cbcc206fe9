import { ALIGNMENT, BARRIERS, BLOCK_SHARED, BOX, IN_FLIGHT, LONG, MOST_TILES, ROW_BYTES } from "./fewRowsDivision.js";

/** Rows up to which kernels/severalRowsHopper.cu beats cuBLASLt. */
export const MOST_SEVERAL = 64;
/** Rows of x in a box of the copy engine, where they lie together in shared memory, as they do in kernels/fewRowsHopper.cu. */
export const X_ROWS = 8;
/** Rows of x that a warpgroup multiplies. */
const WARPGROUP_ROWS = 64;
/** Blocks with fewer tiles of weights share x among as many as there are groups of X_ROWS, others among two. */
const SHARING_TILES = 6;
/** Share of the multiprocessors that clusters of four and eight blocks find room on: 120 of 132. */
const PLACES_OF_CLUSTERS = 0.9;
/** Bytes of a stage that are worth its barriers. */
const STAGE_BYTES = 24 * 1024;

/** How a kernel of kernels/severalRowsHopper.cu is compiled and launched. */
export type SeveralDivision = ReturnType<typeof divideSeveral>;

/** What a product of several rows is: weights [outputs, width], of two halves for gate and up. */
export interface SeveralProduct {
  /** Of x. */
  readonly rows: number;
  readonly outputs: number;
  readonly width: number;
  readonly halves: 1 | 2;
}

/**
 * Blocks of `TILES` tiles of 16 outputs each, stages of `BOXES` boxes, a divisor of width / 64, and clusters of `CLUSTER` blocks, a
 * divisor of the 2, 4 or 8 groups of 8 rows of x; `inFlight`: most bytes of a block's stages.
 */
export function divideSeveral(
  { rows, outputs, width, halves }: SeveralProduct,
  TILES: number,
  CLUSTER: number,
  BOXES = boxesOf(roundedRows(rows), TILES, width),
  inFlight = inFlightOf(roundedRows(rows), TILES, width),
) {
  const ROWS = roundedRows(rows);
  const stage = ROW_BYTES * BOXES * (ROWS + 16 * TILES);
  // Rows of x that there are not are read past its groups.
  const rest = Math.max(0, ROW_BYTES * BOXES * WARPGROUP_ROWS - stage) + ALIGNMENT;
  const STAGES = Math.min(width / BOX / BOXES, Math.floor(Math.min(inFlight, BLOCK_SHARED - BARRIERS - rest) / stage));
  return {
    defines: { ROWS, TILES, BOXES, STAGES, CLUSTER, HALVES: halves },
    grid: [Math.ceil(outputs / 16 / TILES / CLUSTER) * CLUSTER] as const,
    block: 160,
    shared: STAGES * stage + rest,
  };
}

/** Divides a product so that blocks run in full waves. Measured on an H200, as is all here. */
export function divideSeveralRows(product: SeveralProduct, multiprocessors: number): SeveralDivision {
  const ROWS = roundedRows(product.rows);
  const tiles = product.outputs / 16;
  const wide = ROWS >= 32 && Math.ceil(tiles / multiprocessors) < SHARING_TILES;
  // Large clusters leave processors idle, a part of the device having no room for another.
  const places = wide ? Math.floor(multiprocessors * PLACES_OF_CLUSTERS) : multiprocessors;
  const each = tiles / places;
  const waves = Math.ceil(Math.ceil(each) / MOST_TILES);
  return divideSeveral(product, Math.ceil(each / waves), wide ? ROWS / X_ROWS : 2);
}

function roundedRows(rows: number): number {
  return [16, 32, 64].find((most) => rows <= most)!;
}

function boxesOf(rows: number, tiles: number, width: number): number {
  const most = STAGE_BYTES / ROW_BYTES / (rows + 16 * tiles);
  return [4, 2, 1].find((boxes) => boxes === 1 || (boxes <= most && (width / BOX) % boxes === 0))!;
}

/** A block with much to bring has all the shared memory; others leave room for one of the next kernel beside them. */
function inFlightOf(rows: number, tiles: number, width: number): number {
  return 2 * (16 * tiles + rows) * width > LONG ? BLOCK_SHARED : IN_FLIGHT.plain;
}
