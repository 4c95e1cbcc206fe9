/** Rows that kernels/fewRowsHopper.cu multiplies. */
export const MOST_FEW = 8;
/** Shared memory of a multiprocessor, of which a block takes 1 KB more than it asks for, and what a block may have. */
export const MULTIPROCESSOR_SHARED = 228 * 1024;
export const BLOCK_SHARED = 227 * 1024;
/** Bytes of weights from which on a block does better with more copies in flight than with the next kernel's block beside it. */
export const LONG = 224 * 1024;
/** Bytes of copies in flight of the other blocks: two fit, also where normalized rows of up to 2048 columns take 32 KB more. */
export const IN_FLIGHT = { plain: 96 * 1024, norm: 92 * 1024 };
export const MOST_TILES = 11;
/** Columns of a box of the copy engine. */
export const BOX = 64;
export const ROW_BYTES = 2 * BOX;
/** Rows of weights that a warpgroup multiplies. */
const WARPGROUP_ROWS = 64;
export const ALIGNMENT = 1024;
/** Of a ring: two barriers each. */
const MOST_STAGES = 64;
/** Room for them. */
export const BARRIERS = 1024;

/** How a kernel of kernels/fewRowsHopper.cu is compiled and launched. */
export type Division = ReturnType<typeof divide>;

/**
 * Blocks of `TILES` tiles of 16 outputs each and stages of `BOXES` boxes, a divisor of width / 64, for weights
 * [outputs, width]; `norm`: whether the kernel normalizes x.
 */
export function divide(outputs: number, width: number, norm: boolean, TILES: number, BOXES = boxesOf(TILES, width)) {
  const halves = norm ? 2 : 1;
  const half = (16 * TILES) / halves;
  const warpgroups = Math.ceil(half / WARPGROUP_ROWS);
  const stage = ROW_BYTES * BOXES * (16 * TILES + (norm ? 0 : MOST_FEW));
  // Rows that are read from the last half of a stage on, past the stage's end.
  const past = ROW_BYTES * ((halves * BOXES - 1) * half + WARPGROUP_ROWS * warpgroups) - stage;
  const rest = Math.max(past, norm ? 2 * MOST_FEW * width : 0) + ALIGNMENT;
  const inFlight = 2 * 16 * TILES * width > LONG ? BLOCK_SHARED - BARRIERS - rest : IN_FLIGHT[norm ? "norm" : "plain"];
  const STAGES = Math.min(width / BOX / BOXES, Math.floor(inFlight / stage), MOST_STAGES);
  return {
    defines: { TILES, BOXES, STAGES, NORM: norm ? 1 : 0, PACKS: norm ? Math.ceil(width / 256) : 1 },
    grid: [Math.ceil(outputs / 16 / TILES)] as const,
    block: 128 * warpgroups + 32,
    shared: STAGES * stage + rest,
  };
}

/** So many boxes that a stage of a narrow block is worth its barriers. */
function boxesOf(tiles: number, width: number): number {
  const most = tiles === 1 ? 4 : tiles === 2 ? 2 : 1;
  return [4, 2, 1].find((boxes) => boxes <= most && (width / BOX) % boxes === 0)!;
}

/** Of few_rows_plain, for weights [outputs, width]. */
export function dividePlain(outputs: number, width: number, multiprocessors: number): Division {
  const each = Math.ceil(outputs / 16 / multiprocessors);
  return divide(outputs, width, false, each <= 2 ? 1 : Math.min(each, MOST_TILES));
}

/** Of few_rows_swiglu, for weights [outputs, width] of gate and up together. */
export function divideSwiglu(outputs: number, width: number, multiprocessors: number): Division {
  return divide(outputs, width, true, Math.min(Math.ceil(outputs / 16 / multiprocessors), MOST_TILES));
}

/** Of few_rows_qkv, for weights [outputs, width] of heads of `headDim`, a multiple of 16. */
export function divideQkv(outputs: number, width: number, headDim: number, multiprocessors: number): Division {
  // The outputs of a block are of one head; and there is no room for two blocks beside the attention that comes next.
  const fitting = [1, 2, 4, 8].filter((each) => headDim % (16 * each) === 0);
  const each = fitting.find((each) => outputs / 16 / each <= multiprocessors) ?? fitting.at(-1)!;
  return divide(outputs, width, true, each);
}
