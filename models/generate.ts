import type { Sampling } from "../lib/index.js";
import { KvCache } from "./kvCache.js";
import { defaultPageSize } from "./openCache.js";
import type { Qwen } from "./qwen.js";
import type { Completion } from "./request.js";
import { Sampler } from "./sampler.js";

export interface GenerateOptions extends Omit<Sampling, "temperature"> {
  /** Most tokens to draw for each prompt. */
  readonly maxTokens: number;
  /** 0 takes the most likely token. Default 1. */
  readonly temperature?: number;
  readonly seed?: number;
  /** Default: the model's end-of-sequence ids. */
  readonly stopIds?: Iterable<number>;
  /** Tokens a page of the KV cache holds. */
  readonly pageSize?: number;
  /** Called with the prompt's index when one is done. */
  readonly onCompletion?: (index: number, completion: Completion) => void;
}

/**
 * Continues prompts of token ids, all together in one cache. As in transformers, padding tokens in a prompt are not
 * content: they are dropped.
 */
export async function generate(
  model: Qwen,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<Completion[]> {
  const { maxTokens, temperature = 1, topK, topP, minP, seed = 0, pageSize = defaultPageSize(model) } = options;
  const stopIds = new Set(options.stopIds ?? model.config.eosTokenIds);
  const contents = prompts.map((prompt) => withoutPadding(model, prompt));
  const pages = contents.reduce((sum, prompt) => sum + Math.ceil((prompt.length + maxTokens) / pageSize), 0);
  const cache = new KvCache(model.config, { backend: model.backend, dtype: model.dtype, pages, pageSize });
  try {
    const sampler = new Sampler(model, cache, { seed });
    return await Promise.all(
      contents.map(async (tokens, index) => {
        const site = { step: 0, task: index, sample: 0, turn: 0 };
        const sampling = { temperature, topK, topP, minP };
        const request = { ...sampling, sequence: cache.open(), tokens, stopIds, maxTokens, site };
        const completion = await sampler.generate(request);
        options.onCompletion?.(index, completion);
        return completion;
      }),
    );
  } finally {
    cache.dispose();
  }
}

function withoutPadding({ config }: Qwen, prompt: readonly number[]): readonly number[] {
  const { padTokenId, eosTokenIds } = config;
  return padTokenId === undefined || eosTokenIds.includes(padTokenId)
    ? prompt
    : prompt.filter((id) => id !== padTokenId);
}
