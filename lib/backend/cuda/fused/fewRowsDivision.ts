/** Rows up to which kernels/fewRowsHopper.cu beats cuBLASLt. */
export const MOST_ROWS = 8;
/** Bytes of copies in flight that a block asks for; with the next kernel's block beside it they fill a multiprocessor's memory. */
const IN_FLIGHT = 96 * 1024;
/** Bytes beyond those that a block has come to the second-level cache before its turn. */
const READ_AHEAD = 96 * 1024;
const MOST_TILES = 11;
/** Columns of a box of the copy engine. */
export const BOX = 64;
const ALIGNMENT = 1024;

/** How a kernel of kernels/fewRowsHopper.cu is compiled and launched. */
export type Division = ReturnType<typeof divide>;

/** Blocks of some tiles of 16 outputs each, for weights of `width` columns; `norm`: whether the kernel normalizes x. */
function divide(tiles: number, tilesOfBlock: number, width: number, norm: boolean) {
  const TILES = Math.min(tilesOfBlock, MOST_TILES);
  const BOXES = TILES === 1 ? 4 : TILES === 2 ? 2 : 1;
  const stage = 2 * BOX * BOXES * (16 * TILES + (norm ? 0 : MOST_ROWS));
  const STAGES = Math.min(Math.ceil(width / BOX / BOXES), Math.floor(IN_FLIGHT / stage));
  const AHEAD = Math.floor(READ_AHEAD / (32 * BOX * BOXES * TILES));
  return {
    defines: { TILES, BOXES, STAGES, AHEAD, NORM: norm ? 1 : 0, PACKS: norm ? Math.ceil(width / 256) : 1 },
    grid: [Math.ceil(tiles / TILES)] as const,
    block: 32 * (TILES + 1),
    shared: STAGES * stage + (norm ? 2 * MOST_ROWS * width : 0) + ALIGNMENT,
    overlaps: "reads ahead" as const,
  };
}

/** Of few_rows_plain, for weights [outputs, width]. */
export function dividePlain(outputs: number, width: number, multiprocessors: number): Division {
  const tiles = Math.ceil(outputs / 16);
  const each = Math.ceil(tiles / multiprocessors);
  return divide(tiles, each <= 2 ? 1 : each, width, false);
}

/** Of few_rows_swiglu, for weights [outputs, width] of gate and up together. */
export function divideSwiglu(outputs: number, width: number, multiprocessors: number): Division {
  const tiles = outputs / 16;
  return divide(tiles, Math.ceil(tiles / multiprocessors), width, true);
}

/** Of few_rows_qkv, for weights [outputs, width] of heads of `headDim`, a multiple of 16. */
export function divideQkv(outputs: number, width: number, headDim: number, multiprocessors: number): Division {
  // The outputs of a block are of one head; and there is no room for two blocks beside the attention that comes next.
  const tiles = outputs / 16;
  const fitting = [1, 2, 4, 8].filter((each) => headDim % (16 * each) === 0);
  return divide(tiles, fitting.find((each) => tiles / each <= multiprocessors) ?? fitting.at(-1)!, width, true);
}
