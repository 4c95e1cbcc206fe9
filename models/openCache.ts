import { dtypes } from "../lib/dtype.js";
import { KvCache } from "./kvCache.js";
import type { Qwen } from "./qwen.js";
import { canUseSlots } from "./taskSlots.js";

/** What a cache is to hold. */
export interface CacheSize {
  /** Sequences at once at most. */
  readonly sequences: number;
  /** Tokens of each at most. */
  readonly tokens: number;
  /** Most memory of it, in GiB; it has room for one sequence all the same. Default 1. */
  readonly cacheGiB?: number;
  /** Tokens a page holds. Default: `defaultPageSize`. */
  readonly pageSize?: number;
}

/** Tokens of a page: where sequences decode on the device, it copies them by multiples of 8, best 64. */
export function defaultPageSize(model: Qwen): number {
  return canUseSlots(model) ? 64 : 16;
}

/** A cache for a model, in its element type. */
export function openCache(
  model: Qwen,
  { sequences, tokens, cacheGiB = 1, pageSize = defaultPageSize(model) }: CacheSize,
): KvCache {
  const { config, backend, dtype } = model;
  const { layers, kvHeads, headDim } = config;
  const pageBytes = layers * 2 * kvHeads * headDim * pageSize * dtypes[dtype].bytes;
  const each = Math.ceil(tokens / pageSize);
  const pages = Math.max(each, Math.min(sequences * each, Math.floor((cacheGiB * 2 ** 30) / pageBytes)));
  return new KvCache(config, { backend, dtype, pages, pageSize });
}
