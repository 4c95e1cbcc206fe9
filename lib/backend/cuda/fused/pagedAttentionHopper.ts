import type { ArrayRef, HeadLayout } from "../../backend.js";
import type { CudaDevice } from "../device.js";
import type { Overlap } from "../overlaps.js";
import { tensorMap } from "../tensorMap.js";
import type { AttentionVariant } from "./attentionPlain.js";
import { MULTIPROCESSOR_SHARED } from "./fewRowsDivision.js";

// As in kernels/pagedAttentionHopper.cuh and pagedAttentionStream.cu.
const CHUNK = 512;
const ROWS = 16;
const CLUSTER = 4;
const MOST_STAGES = 16;
/** What aligns shared memory. */
const ALIGNMENT = 1024;
/** Shared memory of a block besides: what the kernels declare themselves, and what every block takes. */
export const BESIDES = 5 * 1024;
/** Blocks on a multiprocessor, where there are enough. */
const BLOCKS = 2;
/** With no more chunks than this share of the multiprocessors each is cut among the blocks of a cluster. */
const FEW_CHUNKS = 1 / 4;
/** With so many a multiprocessor there are enough sequences and key heads that each has a block for all its chunks... */
const ENOUGH = 1.5;
/** ...if those are few: a sequence much longer than the others would keep one multiprocessor at work alone. */
const MOST_CHUNKS = 4;

/** Shared memory besides keys and values: probabilities of so many chunks, and queries. */
const commonBytes = (headDim: number, chunks: number) => chunks * ROWS * CHUNK * 2 + ROWS * headDim * 2 + ALIGNMENT;
const clusterBytes = (headDim: number) => 128 * headDim * 2 + (CHUNK * headDim * 2) / CLUSTER + commonBytes(headDim, 1);

/**
 * How `count` chunks of every key head are cut into blocks: clusters of four share one; "chunks" are a block each; of "sequences" a
 * block has all `chunksOfEach`, and more than one sequence where there are more than fit on the device at once. `items` are clusters,
 * chunks or sequences a key head, `blocks` those in all; the rings of the latter two have `STAGES` units of 64 keys.
 */
export function divideChunks(
  { count, chunksOfEach }: { readonly count: number; readonly chunksOfEach?: number },
  { kvHeads, headDim }: Pick<HeadLayout, "kvHeads" | "headDim">,
  multiprocessors: number,
) {
  if (count * kvHeads <= multiprocessors * FEW_CHUNKS) {
    const CHUNKS = chunksOfEach === 2 ? 2 : 1;
    const [items, blocks] = [count / CHUNKS, CLUSTER * count * kvHeads];
    return { by: "clusters", items, blocks, defines: { CHUNKS }, shared: clusterBytes(headDim) } as const;
  }
  const sequences = count / (chunksOfEach ?? Number.POSITIVE_INFINITY);
  const isWhole = sequences * kvHeads >= multiprocessors * ENOUGH && chunksOfEach! <= MOST_CHUNKS;
  const inFlight = MULTIPROCESSOR_SHARED / BLOCKS - BESIDES - commonBytes(headDim, 2);
  const unit = 64 * headDim * 2;
  const STAGES = Math.min(Math.floor(inFlight / unit), MOST_STAGES);
  const items = isWhole ? sequences : count;
  return {
    by: isWhole ? "sequences" : "chunks",
    items,
    blocks: isWhole ? Math.min(items * kvHeads, BLOCKS * multiprocessors) : items * kvHeads,
    defines: { STAGES, WHOLE: isWhole ? 1 : 0 },
    shared: STAGES * unit + commonBytes(headDim, 2),
  } as const;
}

/** Rows of the boxes in which the copy engine brings keys: each lies in one page. Undefined where pages have no such size. */
export function boxRows(pageSize: number): number | undefined {
  return [64, 32, 16, 8].find((rows) => pageSize % rows === 0);
}

/** What a launch over chunks is given; addresses are the device's. */
export interface Chunks {
  readonly x: number;
  readonly cache: ArrayRef;
  readonly pages: number;
  readonly pageSize: number;
  readonly items: number;
  readonly count: number;
  /** Of each sequence at most, where the items of its chunks are as far apart as there are sequences: few are merged here. */
  readonly chunksOfEach?: number;
  readonly y: number;
  readonly partial: number;
  readonly overlaps: Overlap;
}

/**
 * Enqueues kernels/pagedAttentionHopper.cuh over chunks, where it is made for them: bf16, on Hopper, of pages of multiples of 8.
 * Whether the chunks are to be merged yet; undefined where it is not made for them.
 */
export function hopperChunks(
  device: CudaDevice,
  { mma, scales, kernel }: AttentionVariant,
  { heads, kvHeads, headDim }: HeadLayout,
  { cache, pageSize, count, chunksOfEach, overlaps, ...at }: Chunks,
): "apart" | "merged" | undefined {
  const rows = boxRows(pageSize);
  if (!mma || device.capability !== 90 || rows === undefined || device.address(cache) % 16 !== 0) return undefined;
  const [cacheRows, columns] = cache.shape;
  const map = (boxColumns: 64 | 32 | 16) =>
    tensorMap(device.driver, {
      address: device.address(cache),
      ...{ rows: cacheRows, columns, boxRows: rows, boxColumns },
    });
  const division = divideChunks({ count, chunksOfEach }, { kvHeads, headDim }, device.multiprocessors);
  const { items, blocks, shared } = division;
  const rest = [heads, kvHeads, ...scales, at.y, at.partial];
  if (division.by === "clusters") {
    const { CHUNKS } = division.defines;
    const defines = { BOX_ROWS: rows, CHUNKS };
    const fn = kernel("pagedAttentionCluster", "paged_mma_cluster", "psspipiiiffpp", shared, defines);
    const maps = [map(64), map(headDim === 128 ? 32 : 16)];
    const grid = [CLUSTER * count, kvHeads] as const;
    device.launch(fn, [at.x, ...maps, at.pages, pageSize, at.items, items, ...rest], {
      grid,
      block: 128,
      shared,
      overlaps,
    });
    return CHUNKS === 2 ? "merged" : "apart";
  }
  const { STAGES, WHOLE } = division.defines;
  const defines = { BOX_ROWS: rows, STAGES, WHOLE };
  const fn = kernel("pagedAttentionStream", "paged_mma_stream", "pspipiiiffpp", shared, defines);
  const launch = { grid: [blocks] as const, block: 160, shared, overlaps };
  device.launch(fn, [at.x, map(64), at.pages, pageSize, at.items, items * kvHeads, ...rest], launch);
  return division.by === "sequences" ? "merged" : "apart";
}
