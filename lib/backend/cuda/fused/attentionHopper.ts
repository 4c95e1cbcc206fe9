import type { ArrayRef, FusedKernels, HeadLayout } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { tensorMap } from "../tensorMap.js";
import type { WorkLists } from "../workList.js";

/** Boxes in which the copy engine brings rows: 64 rows of 64 columns. */
const BOX = 64;

/**
 * Tiles of `rows` queries of every sequence, those with most keys first: as kernels/attentionHopper.cu wants them.
 * [tiles, 4]: first row of the sequence, its length, position of the tile's first query, 0.
 */
export function queryTiles(offsets: Int32Array, rows: number): Int32Array {
  const tiles: [row: number, length: number, position: number, reserved: number][] = [];
  for (let s = 0; s + 1 < offsets.length; s++) {
    const length = offsets[s + 1] - offsets[s];
    for (let position = 0; position < length; position += rows) tiles.push([offsets[s], length, position, 0]);
  }
  const keys = ([, length, position]: readonly number[]) => Math.min(position + rows, length);
  return Int32Array.from(tiles.sort((a, b) => keys(b) - keys(a)).flat());
}

/** Attention on Hopper's tensor cores: bf16, head dims 64 and 128. */
export function attentionHopper(
  { device, empty }: CudaContext,
  lists: WorkLists,
): Pick<FusedKernels, "attention"> {
  const whole = (x: ArrayRef) =>
    tensorMap(device.driver, {
      address: device.address(x),
      rows: x.shape[0],
      columns: x.shape[1],
      boxRows: BOX,
      boxColumns: BOX,
    });

  return {
    attention(x, offsets, { heads, kvHeads, headDim }: HeadLayout) {
      const [tokens] = x.shape;
      const y = empty("bf16", tokens * heads * headDim, "attention");
      const lse = empty("f32", tokens * heads, "attention statistics");
      if (tokens === 0) return { y, lse };
      const WARPGROUPS = headDim === 64 ? 3 : 2;
      const rows = 64 * WARPGROUPS;
      const tiles = lists(offsets, `queries ${rows}`, () => queryTiles(offsets, rows));
      const units = (tiles.length / 4) * heads;
      const shared = rows * headDim * 6 + 4 * 128 * headDim * 2 + 128 + 1024;
      const defines = { HEAD_DIM: headDim, WARPGROUPS, PING_PONG: 1 };
      const fn = device.kernels.get("attentionHopper", "attention_hopper", "mpiiipp", defines, shared);
      const at = (storage: typeof y) => device.address({ storage, offset: 0, shape: [] });
      device.launch(fn, [whole(x), tiles.address, units, heads, kvHeads, at(y), at(lse)], {
        grid: [Math.min(units, device.multiprocessors)],
        block: (WARPGROUPS + 1) * 128,
        shared,
        flops: causalFlops(offsets, heads, headDim),
      });
      return { y, lse };
    },
  };
}

/** Multiplications and additions of q·kᵀ and p·v below the diagonal. */
export function causalFlops(offsets: Int32Array, heads: number, headDim: number): number {
  let pairs = 0;
  for (let s = 0; s + 1 < offsets.length; s++) pairs += (offsets[s + 1] - offsets[s]) ** 2 / 2;
  return 4 * pairs * heads * headDim;
}
