import { ALIGNMENT, BLOCK_SHARED, ROW_BYTES } from "./fewRowsDivision.js";

/** Rows up to which kernels/manyRowsHopper.cu beats cuBLASLt and a kernel for SwiGLU. */
export const MOST_MANY = 1024;
/** As in kernels/manyRowsHopper.cu: rows of a block, and of those a computing warp has. */
const BLOCK_ROWS = 128;
const WARP_ROWS = 16;
const WARPS = 8;
/** Most columns of gate, and as many of up, whose sums find room in the registers, and stages in shared memory. */
export const MOST_COLUMNS = 168;
/** Room for two barriers a stage. */
const BARRIERS = 128;
const MOST_STAGES = 8;
/** Bands of rows that share columns of the weights while they are in the cache. */
const GROUP = 8;
/** Columns of many bands of rows, beside those that suit one: a kernel compiled for each number of rows would be worth less. */
const COMMON_COLUMNS = [128, MOST_COLUMNS];
const ALL_COLUMNS = Array.from({ length: MOST_COLUMNS / 8 }, (_, i) => MOST_COLUMNS - 8 * i);

/** Products per clock that a multiprocessor does, and bytes that the second-level cache gives it. */
const PRODUCTS = 2048;
const CACHE_BYTES = 26;
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
  const packs = COLUMNS / 8;
  const staging = WARPS * WARP_ROWS * 16 * (packs % 8 === 0 ? packs : packs | 1);
  const rest = staging + BARRIERS + ALIGNMENT;
  const stage = ROW_BYTES * (BLOCK_ROWS + 2 * COLUMNS);
  const { STAGES = Math.min(Math.floor((BLOCK_SHARED - rest) / stage), MOST_STAGES) } = choice;
  const cluster = ROW_BLOCKS * COLUMN_BLOCKS;
  const units = bandsOf(rows, ROW_BLOCKS) * Math.ceil(half / COLUMNS / COLUMN_BLOCKS);
  const clusters = Math.min(Math.floor(multiprocessors / cluster), units);
  return {
    defines: { COLUMNS, STAGES, ROW_BLOCKS, COLUMN_BLOCKS, LEAD },
    group,
    grid: [cluster * clusters] as const,
    block: 384,
    shared: STAGES * stage + rest,
  };
}

/** Cuts a product so that its units come in full waves. */
export function divideManyRows(product: ManyProduct, multiprocessors: number): ManyDivision {
  const { rows, half, width } = product;
  const [ROW_BLOCKS, COLUMN_BLOCKS]: [1 | 2, 1 | 2] = rows <= BLOCK_ROWS ? [1, 2] : [2, 1];
  const clusters = Math.floor(multiprocessors / ROW_BLOCKS / COLUMN_BLOCKS);
  /** Roughly how long so many bands take. */
  const clocks = (bands: number, columns: number): number => {
    const products = (BLOCK_ROWS * 2 * columns) / PRODUCTS;
    const bytes = (2 * (BLOCK_ROWS / COLUMN_BLOCKS + (2 * columns) / ROW_BLOCKS)) / CACHE_BYTES;
    const waves = Math.ceil((bands * Math.ceil(half / columns / COLUMN_BLOCKS)) / clusters);
    return waves * (width * Math.max(products, bytes) + BETWEEN);
  };
  const fastest = (bands: number, among: readonly number[]): number => {
    let best = among[0];
    for (const columns of among) if (clocks(bands, columns) < clocks(bands, best)) best = columns;
    return best;
  };
  const bands = bandsOf(rows, ROW_BLOCKS);
  const forOne = fastest(1, ALL_COLUMNS);
  const COLUMNS = bands === 1 ? forOne : fastest(bands, [forOne, ...COMMON_COLUMNS]);
  return divideMany(product, { COLUMNS, ROW_BLOCKS, COLUMN_BLOCKS }, multiprocessors);
}

function bandsOf(rows: number, rowBlocks: number): number {
  return Math.ceil(rows / BLOCK_ROWS / rowBlocks);
}
