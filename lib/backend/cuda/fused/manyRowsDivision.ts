import { ALIGNMENT, BLOCK_SHARED, ROW_BYTES } from "./fewRowsDivision.js";

/** As in kernels/manyRowsHopper.cu: rows of a block, and of those a computing warp has. */
const BLOCK_ROWS = 128;
const WARP_ROWS = 16;
const WARPS = 8;
/** Of the inner axis. */
const STEP = 64;
/** Most columns of gate, and as many of up, whose sums find room in the registers, and stages in shared memory. */
export const MOST_COLUMNS = 168;
/** Room for two barriers a stage. */
const BARRIERS = 128;
const MOST_STAGES = 8;
/** Bands of rows that share columns of the weights while they are in the cache. */
const GROUP = 8;
/**
 * Columns of many bands of rows, beside those that suit two: a kernel compiled for each number of rows would be worth less. Gate and up
 * of so many take one instruction; measured, they are best for all of more rows than these.
 */
const COMMON_COLUMNS = 128;
const MOST_SUITED = 1024;
/** Of more than a band, what share of the products must count for the kernel to beat cuBLASLt and swiglu. */
const WORTHWHILE = 0.8;
const ALL_COLUMNS = Array.from({ length: MOST_COLUMNS / 8 }, (_, i) => MOST_COLUMNS - 8 * i);

/** Products per clock that a multiprocessor does, and bytes that the second-level cache gives it. */
const PRODUCTS = 2048;
const CACHE_BYTES = 30;
/** Clocks until weights are there, from memory where no other band has brought them, and stages that the products hold meanwhile. */
const LATENCY = { memory: 2900, cache: 1400 };
const HELD = 1.5;
/** Clocks between the last product of a unit and the first of the next. */
const BETWEEN = 1500;

/** What the first half of an MLP over many rows is: x [rows, width], gate and up of `half` outputs each. */
export interface ManyProduct {
  readonly rows: number;
  readonly half: number;
  readonly width: number;
}

/** How a product is cut: a block's columns of each half, and how many blocks of a cluster share weights, and x. */
export interface ManyChoice {
  readonly COLUMNS: number;
  readonly ROW_BLOCKS: 1 | 2;
  readonly COLUMN_BLOCKS: 1 | 2;
  /** Default: as many as there is room for. */
  readonly STAGES?: number;
  /** Stages that the first warpgroup is ahead of the second at the start. */
  readonly LEAD?: number;
  readonly group?: number;
}

/** How kernels/manyRowsHopper.cu is compiled and launched. */
export type ManyDivision = ReturnType<typeof divideMany>;

/** Cuts a product as chosen. */
export function divideMany({ rows, half }: ManyProduct, choice: ManyChoice, multiprocessors: number) {
  const { COLUMNS, ROW_BLOCKS, COLUMN_BLOCKS, LEAD = 1, group = GROUP } = choice;
  const { STAGES = stagesOf(COLUMNS) } = choice;
  const cluster = ROW_BLOCKS * COLUMN_BLOCKS;
  const units = bandsOf(rows, ROW_BLOCKS) * Math.ceil(half / COLUMNS / COLUMN_BLOCKS);
  const clusters = Math.min(Math.floor(multiprocessors / cluster), units);
  return {
    defines: { COLUMNS, STAGES, ROW_BLOCKS, COLUMN_BLOCKS, LEAD },
    group,
    grid: [cluster * clusters] as const,
    block: 384,
    shared: STAGES * stageOf(COLUMNS) + restOf(COLUMNS),
  };
}

/**
 * Cuts a product of more than 64 rows so that its units come in full waves; undefined where cuBLASLt and swiglu are as fast.
 * Measured on an H200, as is all here.
 */
export function divideManyRows(product: ManyProduct, multiprocessors: number): ManyDivision | undefined {
  const { rows, half, width } = product;
  const [ROW_BLOCKS, COLUMN_BLOCKS]: [1 | 2, 1 | 2] = rows <= BLOCK_ROWS ? [1, 2] : [2, 1];
  const clusters = Math.floor(multiprocessors / ROW_BLOCKS / COLUMN_BLOCKS);
  const wavesOf = (bands: number, columns: number) =>
    Math.ceil((bands * Math.ceil(half / columns / COLUMN_BLOCKS)) / clusters);
  /** Roughly how long so many bands take. */
  const clocks = (bands: number, columns: number): number => {
    const products = (STEP * BLOCK_ROWS * 2 * columns) / PRODUCTS;
    const bytes = (2 * STEP * (BLOCK_ROWS / COLUMN_BLOCKS + (2 * columns) / ROW_BLOCKS)) / CACHE_BYTES;
    const arrival = LATENCY[bands === 1 ? "memory" : "cache"] / (stagesOf(columns) - HELD);
    return wavesOf(bands, columns) * ((width / STEP) * Math.max(products, bytes, arrival) + BETWEEN);
  };
  const bands = bandsOf(rows, ROW_BLOCKS);
  const suited = Math.min(bands, 2);
  let COLUMNS = MOST_COLUMNS;
  // A band takes one wave of blocks that share x, or two that share weights; narrower blocks are slower, or were not measured.
  const most = Math.max(ROW_BLOCKS * suited, wavesOf(suited, MOST_COLUMNS));
  for (const columns of ALL_COLUMNS) {
    if (wavesOf(suited, columns) <= most && clocks(suited, columns) <= clocks(suited, COLUMNS)) COLUMNS = columns;
  }
  const isFaster = bands > 1 && clocks(bands, COMMON_COLUMNS) < clocks(bands, COLUMNS);
  if (isFaster || rows > MOST_SUITED) COLUMNS = COMMON_COLUMNS;
  const done = wavesOf(bands, COLUMNS) * multiprocessors * BLOCK_ROWS * COLUMNS;
  if (bands > 1 && rows * half < WORTHWHILE * done) return undefined;
  return divideMany(product, { COLUMNS, ROW_BLOCKS, COLUMN_BLOCKS }, multiprocessors);
}

function stagingOf(columns: number): number {
  const packs = columns / 8;
  return WARPS * WARP_ROWS * 16 * (packs % 8 === 0 ? packs : packs | 1);
}

function stageOf(columns: number): number {
  return ROW_BYTES * (BLOCK_ROWS + 2 * columns);
}

/** As many as there is room for. */
function stagesOf(columns: number): number {
  return Math.min(Math.floor((BLOCK_SHARED - restOf(columns)) / stageOf(columns)), MOST_STAGES);
}

function restOf(columns: number): number {
  return stagingOf(columns) + BARRIERS + ALIGNMENT;
}

function bandsOf(rows: number, rowBlocks: number): number {
  return Math.ceil(rows / BLOCK_ROWS / rowBlocks);
}
