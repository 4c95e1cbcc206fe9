import { dtypes } from "../lib/dtype.js";
import { KvCache } from "./kvCache.js";
import type { Qwen } from "./qwen.js";

/** What a cache is to hold. */
export interface CacheSize {
  /** Sequences at once at most. */
  readonly sequences: number;
  /** Tokens of each at most. */
  readonly tokens: number;
  /** Most memory of it, in GiB; it has room for one sequence all the same. Default 1. */
  readonly cacheGiB?: number;
  /** Tokens a page holds. Default 16. */
  readonly pageSize?: number;
}

/** A cache for a model, in its element type. */
export function openCache(
  { config, backend, dtype }: Qwen,
  { sequences, tokens, cacheGiB = 1, pageSize = 16 }: CacheSize,
): KvCache {
  const { layers, kvHeads, headDim } = config;
  const pageBytes = layers * 2 * kvHeads * headDim * pageSize * dtypes[dtype].bytes;
  const each = Math.ceil(tokens / pageSize);
  const pages = Math.max(each, Math.min(sequences * each, Math.floor((cacheGiB * 2 ** 30) / pageBytes)));
  return new KvCache(config, { backend, dtype, pages, pageSize });
}
