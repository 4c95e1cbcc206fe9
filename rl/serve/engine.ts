import { InputError } from "../../lib/index.js";
import {
  type CachedSequence,
  type ChatRenderer,
  type Completion,
  chatRenderer,
  type Message,
  openCache,
  type Qwen,
  type SampleRequest,
  Sampler,
  type Tokenizer,
} from "../../models/index.js";
import { type Sampling, sample } from "./sampling.js";

/** Noise is named by each request's own seed. */
const SAMPLER_SEED = 0;
/** UTF-16 code units of messages after which a renderer, which remembers what it rendered, is replaced. */
const REMEMBERED = 2 ** 24;

export interface EngineOptions {
  readonly model: Qwen;
  readonly tokenizer: Tokenizer;
  /** Longest sequence in tokens, prompt included. Default: what the model allows. */
  readonly context?: number;
  /** Most sequences that are drawn at once. Default 64. */
  readonly maxBatch?: number;
  /** Most memory of the KV cache in GiB, though never less than one longest sequence takes. Default 1. */
  readonly cacheGiB?: number;
  /** Tokens a page of the KV cache holds. Default: models/openCache.ts. */
  readonly pageSize?: number;
}

/** One answer to draw. */
export interface DrawRequest
  extends Pick<SampleRequest, "tokens" | "maxTokens" | "site" | "signal" | "deadline" | "topLogprobs" | "onToken"> {
  readonly sampling: Sampling;
  /** A sequence that `open` gave, for a conversation that goes on; else one of its own. */
  readonly sequence?: CachedSequence;
}

/** A model that draws many answers at once over one KV cache. */
export class Engine {
  readonly tokenizer: Tokenizer;
  readonly context: number;
  readonly maxBatch: number;
  /** Ids that end an answer. */
  readonly stopIds: ReadonlySet<number>;
  readonly #sampler: Sampler;
  #chat: ChatRenderer;
  #rendered = 0;

  /** @throws InputError where the model allows no sequence of `context` tokens, or has no usable chat template. */
  constructor(options: EngineOptions) {
    const { model, tokenizer, context = model.config.maxPositions, maxBatch = 64 } = options;
    const { maxPositions, eosTokenIds } = model.config;
    if (context > maxPositions) {
      throw new InputError(`a context of ${context} tokens exceeds the model's ${maxPositions}; lower it`);
    }
    this.tokenizer = tokenizer;
    this.context = context;
    this.maxBatch = maxBatch;
    this.#chat = newRenderer(tokenizer);
    this.stopIds = new Set([...this.#chat.stopIds, ...eosTokenIds]);
    const cache = openCache(model, { ...options, sequences: maxBatch, tokens: context });
    this.#sampler = new Sampler(model, cache, { seed: SAMPLER_SEED, maxBatch });
  }

  /** How messages become tokens and answers messages. */
  get chat(): ChatRenderer {
    return this.#chat;
  }

  /** Tokens of a conversation up to the answer. @throws InputError where the chat template refuses it. */
  prompt(messages: readonly Message[]): number[] {
    this.#rendered += messages.reduce((sum, { content }) => sum + content.length, 0);
    if (this.#rendered > REMEMBERED) {
      this.#chat = newRenderer(this.tokenizer);
      this.#rendered = 0;
    }
    return this.#chat.open(messages);
  }

  /** A place in the cache for a conversation that goes on. */
  open(): CachedSequence {
    return this.#sampler.cache.open();
  }

  /**
   * Places for `count` answers to one prompt, which is computed once and shared: all but its last token, after which each
   * answer draws its own.
   */
  async openGroup(
    tokens: readonly number[],
    count: number,
    { signal, deadline }: Pick<DrawRequest, "signal" | "deadline"> = {},
  ): Promise<CachedSequence[]> {
    const { cache } = this.#sampler;
    const opening = cache.open();
    try {
      const shared = count > 1 ? tokens.slice(0, -1) : [];
      if (shared.length > 0) await this.#sampler.prefill({ sequence: opening, tokens: shared, signal, deadline });
      return Array.from({ length: count }, () => cache.fork(opening));
    } finally {
      cache.close(opening);
    }
  }

  /** Gives a place in the cache back. */
  close(sequence: CachedSequence): void {
    this.#sampler.cache.close(sequence);
  }

  /** Draws until a stop id or `maxTokens`. */
  async draw({ sampling, sequence, ...request }: DrawRequest): Promise<Completion> {
    const place = sequence ?? this.open();
    try {
      return await sample(this.#sampler, { ...request, ...sampling, sequence: place, stopIds: this.stopIds });
    } finally {
      if (!sequence) this.close(place);
    }
  }

  /** Tokens drawn so far. */
  get drawn(): number {
    return this.#sampler.drawn;
  }

  /** Whether no sequence is open. */
  get idle(): boolean {
    return [...this.#sampler.cache.sequences].length === 0;
  }

  /** Frees the cache. */
  dispose(): void {
    this.#sampler.cache.dispose();
  }
}

/** Answers stay in a conversation as they were drawn, also where a template would cut them. */
function newRenderer(tokenizer: Tokenizer): ChatRenderer {
  return chatRenderer(tokenizer, { onRewrite: "keep" });
}
