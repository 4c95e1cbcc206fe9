import { ALIGNMENT, BARRIERS, BLOCK_SHARED, BOX, IN_FLIGHT, LONG, ROW_BYTES } from "./fewRowsDivision.js";

/** Rows up to which kernels/severalRowsHopper.cu beats cuBLASLt. */
export const MOST_SEVERAL = 64;
/** Rows of x in a box of the copy engine, where they lie together in shared memory, as they do in kernels/fewRowsHopper.cu. */
export const X_ROWS = 8;
/** Rows of x that a warpgroup multiplies. */
const WARPGROUP_ROWS = 64;
/** Most outputs of a block, of both halves. */
const MOST_OUTPUTS = 176;
/** Blocks that would have fewer outputs share x and weights among up to eight, others x among two. */
const SHARING_OUTPUTS = 96;
/** Share of the multiprocessors that clusters of four and eight blocks find room on: 120 of 132. */
const PLACES_OF_CLUSTERS = 10 / 11;
/** Bytes of a stage that are worth its barriers. */
const STAGE_BYTES = 40 * 1024;

/** How a kernel of kernels/severalRowsHopper.cu is compiled and launched. */
export type SeveralDivision = ReturnType<typeof divideSeveral>;

/** What a product of several rows is: weights [outputs, width]. */
export interface SeveralProduct {
  /** Of x. */
  readonly rows: number;
  readonly outputs: number;
  readonly width: number;
  /** 2 where an output is made of a pair: gate and up, or what a rotation turns. */
  readonly halves: 1 | 2;
  /** Outputs or pairs that lie apart from the next as many: half a head; a block has none of two such. */
  readonly apart?: number;
}

/** Which part of a product a block has, and with whom it shares what it reads. */
export interface SeveralChoice {
  /** Of x: 16, 32 or 64. */
  readonly ROWS: number;
  /** Blocks that have the same weights and other rows. */
  readonly ROW_BLOCKS: 1 | 2;
  /** Blocks that share x, a divisor of ROWS / 8; with ROW_BLOCKS they make clusters of up to 8. */
  readonly SHARERS: number;
  /** Outputs of a half, a multiple of 8. */
  readonly OUTPUTS: number;
  /** Boxes of 64 columns of a stage, a divisor of width / 64. */
  readonly BOXES?: number;
  /** Most bytes of a block's stages. */
  readonly inFlight?: number;
}

/** Divides a product as chosen. */
export function divideSeveral(product: SeveralProduct, choice: SeveralChoice) {
  const { width, halves } = product;
  const { ROWS, ROW_BLOCKS, SHARERS, OUTPUTS } = choice;
  const rows = ROWS + halves * OUTPUTS;
  const { BOXES = boxesOf(rows, width), inFlight = rows * 2 * width > LONG ? BLOCK_SHARED : IN_FLIGHT.plain } = choice;
  const stage = ROW_BYTES * BOXES * rows;
  // Rows of x that there are not are read past its groups.
  const rest = Math.max(0, ROW_BYTES * BOXES * WARPGROUP_ROWS - stage) + ALIGNMENT;
  const STAGES = Math.min(width / BOX / BOXES, Math.floor(Math.min(inFlight, BLOCK_SHARED - BARRIERS - rest) / stage));
  return {
    defines: { ROWS, ROW_BLOCKS, SHARERS, OUTPUTS, BOXES, STAGES, HALVES: halves },
    grid: [Math.ceil(blocksOf(product, OUTPUTS) / SHARERS) * SHARERS * ROW_BLOCKS] as const,
    block: 160,
    shared: STAGES * stage + rest,
  };
}

/** Blocks that a product's outputs take. */
function blocksOf({ outputs, halves, apart = outputs / halves }: SeveralProduct, OUTPUTS: number): number {
  return (outputs / halves / apart) * Math.ceil(apart / OUTPUTS);
}

function boxesOf(rows: number, width: number): number {
  const most = STAGE_BYTES / ROW_BYTES / rows;
  return [4, 2, 1].find((boxes) => boxes === 1 || (boxes <= most && (width / BOX) % boxes === 0))!;
}

/** Divides a product so that blocks run in full waves. Measured on an H200, as is all here. */
export function divideSeveralRows(product: SeveralProduct, multiprocessors: number): SeveralDivision {
  const { rows, outputs, halves, apart } = product;
  const ROWS = roundedRows(rows);
  const wide = ROWS >= 32 && outputs / multiprocessors < SHARING_OUTPUTS;
  if (!wide) {
    const each = outputs / halves / multiprocessors;
    const waves = Math.ceil((each * halves) / MOST_OUTPUTS);
    return divideSeveral(product, { ROWS, ROW_BLOCKS: 1, SHARERS: 2, OUTPUTS: eights(each / waves, apart) });
  }
  // What a block takes in, of x and of weights, bounds it: of more rows than outputs it has half.
  const ROW_BLOCKS = ROWS === 64 && outputs / multiprocessors < ROWS / 2 ? 2 : 1;
  const CLUSTER = ROWS / X_ROWS;
  const columns = placesOf(CLUSTER, multiprocessors) / ROW_BLOCKS;
  const pairs = outputs / halves;
  const each = apart ? apart / Math.max(1, Math.floor((columns * apart) / pairs)) : pairs / columns;
  return divideSeveral(product, {
    ...{ ROWS: ROWS / ROW_BLOCKS, ROW_BLOCKS, SHARERS: CLUSTER / ROW_BLOCKS, OUTPUTS: eights(each, apart) },
  });
}

/** Blocks that run at once in clusters of so many: a part of the device has no room for another large one. */
function placesOf(cluster: number, multiprocessors: number): number {
  const places = cluster > 2 ? multiprocessors * PLACES_OF_CLUSTERS : multiprocessors;
  return cluster * Math.floor(places / cluster + 1e-9);
}

/** The rows of x that a kernel is compiled for. */
function roundedRows(rows: number): 16 | 32 | 64 {
  return ([16, 32, 64] as const).find((most) => rows <= most)!;
}

function eights(outputs: number, most = Number.POSITIVE_INFINITY): number {
  return Math.min(8 * Math.ceil(outputs / 8), most);
}
