import type { ArrayRef, HeadLayout } from "../../backend.js";
import type { CudaDevice } from "../device.js";
import type { Overlap } from "../overlaps.js";
import { tensorMap } from "../tensorMap.js";
import type { AttentionVariant } from "./attentionPlain.js";

// As in kernels/pagedAttentionHopper.cuh.
const CHUNK = 512;
const ROWS = 16;
const CLUSTER = 4;
const STAGES = 5;
/** What aligns shared memory. */
const ALIGNMENT = 1024;
/** With no more chunks than this share of the multiprocessors each is cut among the blocks of a cluster. */
const FEW_CHUNKS = 1 / 4;

/** Shared memory of both kernels. */
export function hopperBytes(headDim: number): { readonly cluster: number; readonly stream: number } {
  const common = ROWS * CHUNK * 2 + ROWS * headDim * 2 + ALIGNMENT;
  return {
    cluster: 128 * headDim * 2 + (CHUNK * headDim * 2) / CLUSTER + common,
    stream: STAGES * 64 * headDim * 2 + common,
  };
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
  /** Of each sequence, where the items of a sequence's chunks are as far apart as there are sequences: 2 are merged here. */
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
  const { cluster, stream } = hopperBytes(headDim);
  const rest = [heads, kvHeads, ...scales, at.y, at.partial];
  if (count * kvHeads <= device.multiprocessors * FEW_CHUNKS) {
    const CHUNKS = chunksOfEach === 2 ? 2 : 1;
    const defines = { BOX_ROWS: rows, CHUNKS };
    const fn = kernel("pagedAttentionCluster", "paged_mma_cluster", "psspipiiiffpp", cluster, defines);
    const launch = {
      grid: [CLUSTER * count, kvHeads] as const,
      block: 128,
      shared: cluster,
      overlaps,
    };
    const maps = [map(64), map(headDim === 128 ? 32 : 16)];
    device.launch(fn, [at.x, ...maps, at.pages, pageSize, at.items, count / CHUNKS, ...rest], launch);
    return CHUNKS === 2 ? "merged" : "apart";
  }
  const fn = kernel("pagedAttentionStream", "paged_mma_stream", "pspipiiffpp", stream, { BOX_ROWS: rows, STAGES });
  const launch = { grid: [count, kvHeads] as const, block: 160, shared: stream, overlaps };
  device.launch(fn, [at.x, map(64), at.pages, pageSize, at.items, ...rest], launch);
  return "apart";
}
