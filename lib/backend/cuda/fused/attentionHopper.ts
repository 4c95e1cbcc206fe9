import type { ArrayRef, FusedKernels, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { causalFlops } from "../launch.js";
import { tensorMap } from "../tensorMap.js";
import type { WorkLists } from "../workList.js";

/** Boxes in which the copy engine brings rows: 64 rows of 64 columns. */
const BOX = 64;
/** As in kernels/attentionHopper.cu. */
const FORWARD = { keys: 128, stages: 2 };
/** As in kernels/attentionBackwardHopper.cu. */
const BACKWARD = { rows: 128, flow: 64, stages: 4 };
/** Query heads over which a block sums dk and dv, by headDim: part of the order of addition, so it depends on nothing else. */
const headsOfBlock = (headDim: number) => (headDim === 64 ? 2 : 4);
/** Shared memory for barriers and alignment. */
const EXTRA_SHARED = 128 + 1024;

const forwardDefines = (headDim: number) => ({ HEAD_DIM: headDim, WARPGROUPS: headDim === 64 ? 3 : 2 });
const backwardDefines = (headDim: number) => ({ HEAD_DIM: headDim });

/** The files below as they are compiled: large ones, worth compiling at the same time. */
export const attentionHopperModules = [64, 128].flatMap((headDim) => [
  { file: "attentionHopper", defines: forwardDefines(headDim) },
  { file: "attentionBackwardHopper", defines: backwardDefines(headDim) },
]);

/** [row, length, position, slot]: first row of the sequence, its length, first position of the tile, a number of its own. */
type Tile = readonly [row: number, length: number, position: number, slot: number];

/** Tiles of `rows` positions of every sequence. Slots count tiles of half the size, an even number a sequence. */
function tilesOf(offsets: Int32Array, rows: number): Tile[] {
  const tiles: Tile[] = [];
  let slot = 0;
  for (let s = 0; s + 1 < offsets.length; s++) {
    const length = offsets[s + 1] - offsets[s];
    for (let position = 0; position < length; position += rows) tiles.push([offsets[s], length, position, slot]);
    slot += 2 * Math.ceil(length / rows);
  }
  return tiles;
}

/** Tiles of queries, those with most keys first. */
function queryTiles(offsets: Int32Array, rows: number): Int32Array {
  const keys = ([, length, position]: Tile) => Math.min(position + rows, length);
  return Int32Array.from(
    tilesOf(offsets, rows)
      .sort((a, b) => keys(b) - keys(a))
      .flat(),
  );
}

/** Tiles of keys, those with most queries first. */
function keyTiles(offsets: Int32Array, rows: number): Int32Array {
  const queries = ([, length, position]: Tile) => length - position;
  return Int32Array.from(
    tilesOf(offsets, rows)
      .sort((a, b) => queries(b) - queries(a))
      .flat(),
  );
}

/** Attention on Hopper's tensor cores: bf16, head dims 64 and 128. The kernels' headers say how. */
export function attentionHopper(
  { device, empty }: CudaContext,
  lists: WorkLists,
): Pick<FusedKernels, "attention" | "attentionBackward"> {
  const at = (storage: Storage) => device.address({ storage, offset: 0, shape: [] });
  const boxes = (x: ArrayRef) =>
    tensorMap(device.driver, {
      address: device.address(x),
      rows: x.shape[0],
      columns: x.shape[1],
      boxRows: BOX,
      boxColumns: BOX,
    });

  return {
    attention(x, offsets, { heads, kvHeads, headDim }) {
      const [tokens] = x.shape;
      const y = empty("bf16", tokens * heads * headDim, "attention");
      const lse = empty("f32", tokens * heads, "attention statistics");
      if (tokens === 0) return { y, lse };
      const defines = forwardDefines(headDim);
      const rows = 64 * defines.WARPGROUPS;
      const tiles = lists(offsets, `queries ${rows}`, () => queryTiles(offsets, rows));
      const units = (tiles.words.length / 4) * heads;
      const { keys, stages } = FORWARD;
      const shared = 2 * headDim * (rows + 2 * stages * keys) + 4 * headDim * rows + EXTRA_SHARED;
      const fn = device.kernels.get("attentionHopper", "attention_hopper", "spiiipp", defines, shared);
      device.launch(fn, [boxes(x), tiles.address, units, heads, kvHeads, at(y), at(lse)], {
        grid: [Math.min(units, device.multiprocessors)],
        block: (defines.WARPGROUPS + 1) * 128,
        shared,
        flops: causalFlops(offsets, heads, headDim),
      });
      return { y, lse };
    },

    attentionBackward(dy, x, y, lse, offsets, { heads, kvHeads, headDim }) {
      const [tokens, width] = x.shape;
      const dx = empty("bf16", tokens * width, "attention gradient");
      if (tokens === 0) return dx;
      const { rows, flow, stages } = BACKWARD;
      const keys = lists(offsets, `keys ${rows}`, () => keyTiles(offsets, rows));
      const queries = lists(offsets, `queries ${rows}`, () => queryTiles(offsets, rows));
      const tiles = keys.words.length / 4;
      const parts = Math.ceil(heads / kvHeads / headsOfBlock(headDim));
      const counters = 2 * tiles * kvHeads;
      const defines = backwardDefines(headDim);
      const shared = 4 * headDim * (rows + stages * flow) + 8 * stages * flow + EXTRA_SHARED;
      const file = "attentionBackwardHopper";
      const stats = device.kernels.get(file, "attention_backward_stats", "ppppippi", defines);
      const main = device.kernels.get(file, "attention_backward", "ssppiiiipppp", defines, shared);
      const statsBytes = 4 * tiles * heads * 2 * rows;
      const partialBytes = parts > 1 ? 4 * tiles * kvHeads * parts * 2 * rows * headDim : 16;
      device.withScratch(statsBytes + 4 * counters, "attention scratch", (statsAt) => {
        device.withScratch(partialBytes, "attention scratch", (partialAt) => {
          const countersAt = statsAt + statsBytes;
          const [dyAt, yAt, lseAt] = [dy, y, lse].map((array) => device.address(array));
          device.launch(stats, [dyAt, yAt, lseAt, keys.address, heads, statsAt, countersAt, counters], {
            grid: [tiles * heads],
            block: 256,
            bytes: 4 * tokens * heads * headDim,
          });
          const keyBlocks = tiles * kvHeads * parts;
          device.launch(
            main,
            [
              ...[boxes(x), boxes(dy), keys.address, queries.address, keyBlocks, heads, kvHeads, parts],
              ...[statsAt, partialAt, countersAt, at(dx)],
            ],
            {
              grid: [keyBlocks + tiles * heads],
              block: 384,
              shared,
              flops: 2.5 * causalFlops(offsets, heads, headDim),
            },
          );
        });
      });
      return dx;
    },
  };
}
