import { ALIGNMENT, BARRIERS, BLOCK_SHARED, BOX, IN_FLIGHT, LONG, MOST_TILES, ROW_BYTES } from "./fewRowsDivision.js";

/** Rows up to which kernels/severalRowsHopper.cu beats cuBLASLt. */
export const MOST_SEVERAL = 64;
/** Rows of x in a box of the copy engine, where they lie together in shared memory, as they do in kernels/fewRowsHopper.cu. */
export const X_ROWS = 8;
/** Rows of x that a warpgroup multiplies. */
const WARPGROUP_ROWS = 64;
/** Blocks of a cluster that every device can have. */
const MOST_CLUSTER = 8;
/** Bytes of a stage that are worth its barriers. */
const STAGE_BYTES = 20 * 1024;

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
  CLUSTER = clusterOf(roundedRows(rows), TILES),
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
    overlaps: "reads ahead" as const,
  };
}

/** Divides a product so that blocks run in full waves. */
export function divideSeveralRows(product: SeveralProduct, multiprocessors: number): SeveralDivision {
  const each = product.outputs / 16 / multiprocessors;
  const waves = Math.ceil(Math.ceil(each) / MOST_TILES);
  return divideSeveral(product, Math.ceil(each / waves));
}

function roundedRows(rows: number): number {
  return [16, 32, 64].find((most) => rows <= most)!;
}

/** Blocks that share x: so many that each brings less of it than a quarter of its weights, as far as groups of rows go. */
function clusterOf(rows: number, tiles: number): number {
  const groups = rows / X_ROWS;
  return [1, 2, 4, 8].find((blocks) => blocks === Math.min(groups, MOST_CLUSTER) || (4 * rows) / blocks <= 16 * tiles)!;
}

function boxesOf(rows: number, tiles: number, width: number): number {
  const most = STAGE_BYTES / ROW_BYTES / (rows + 16 * tiles);
  return [4, 2, 1].find((boxes) => boxes === 1 || (boxes <= most && (width / BOX) % boxes === 0))!;
}

/** A block with much to bring has all the shared memory; others leave room for one of the next kernel beside them. */
function inFlightOf(rows: number, tiles: number, width: number): number {
  return 2 * (16 * tiles + rows) * width > LONG ? BLOCK_SHARED : IN_FLIGHT.plain;
}
