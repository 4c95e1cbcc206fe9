import type { NoiseSite, Sampling } from "../lib/index.js";
import type { CachedSequence } from "./kvCache.js";

/** Tokens to compute, in a sequence of a cache. */
export interface PrefillRequest {
  /** The sequence's place in the cache; what is not there yet is computed first. */
  readonly sequence: CachedSequence;
  /** All tokens of the sequence so far. */
  readonly tokens: readonly number[];
  /** Ends the request early, with what was drawn so far. */
  readonly signal?: AbortSignal;
  /** When to end the request with what was drawn so far: milliseconds of `performance.now()`. */
  readonly deadline?: number;
}

/** A token that could be drawn, with its natural-log probability as in `Completion.logprobs`. */
export interface LikelyToken {
  readonly id: number;
  readonly logprob: number;
}

export interface SampleRequest extends PrefillRequest, Sampling {
  readonly stopIds: ReadonlySet<number>;
  /** Most tokens to draw; at least 1. */
  readonly maxTokens: number;
  /** How many of the most likely tokens `onToken` is told. Default 0; any other takes time for each token drawn. */
  readonly topLogprobs?: number;
  /** Called with each token as it is drawn, and the most likely ones in its place; what it throws ends the request. */
  readonly onToken?: (id: number, logprob: number, likely: readonly LikelyToken[]) => void;
  /** Names the noise of this turn: the same site gives the same noise in every batch and on every backend. */
  readonly site: Omit<NoiseSite, "position">;
}

export interface Completion {
  /** Drawn tokens, the stop token included. */
  readonly ids: readonly number[];
  /**
   * Natural-log probability of each at the sampling temperature (at 1 for greedy decoding), before anything is cut off by
   * top-k, top-p or min-p: what the trainer computes for the same weights.
   */
  readonly logprobs: readonly number[];
  readonly stop: "stop" | "length" | "cancelled" | "deadline";
}

/** A request on its way. */
export class Task {
  /** The request's tokens and those drawn since. */
  readonly known: number[];
  readonly logprobs: number[] = [];
  served = 0;

  constructor(
    readonly request: PrefillRequest,
    /** What to draw; nothing where a prompt is only to be computed. */
    readonly drawing: SampleRequest | undefined,
    readonly resolve: (completion: Completion) => void,
    readonly reject: (error: unknown) => void,
    /** Its tokens are drawn in a slot on the device, which computes the last known one too. */
    readonly usesSlot = false,
  ) {
    this.known = [...request.tokens];
  }

  /** Tokens that are to be computed before one can be drawn. */
  get pending(): number {
    return this.known.length - this.request.sequence.length - (this.usesSlot ? 1 : 0);
  }

  /** Most tokens that it may bring into the cache: the last one drawn does not get there. */
  get target(): number {
    return this.request.tokens.length + (this.drawing ? this.drawing.maxTokens - 1 : 0);
  }

  completion(stop: Completion["stop"]): Completion {
    return { ids: this.known.slice(this.request.tokens.length), logprobs: this.logprobs, stop };
  }

  /** Why it is to end before its time. */
  get interrupted(): "cancelled" | "deadline" | undefined {
    const { signal, deadline = Number.POSITIVE_INFINITY } = this.request;
    if (signal?.aborted) return "cancelled";
    return performance.now() >= deadline ? "deadline" : undefined;
  }
}
