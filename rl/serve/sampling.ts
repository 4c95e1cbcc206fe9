import type { Completion, SampleRequest, Sampler } from "../../models/index.js";

/** How tokens are drawn. */
export interface Sampling {
  /** 0 takes the most likely token. */
  readonly temperature: number;
  /** Draw among the k most likely tokens. */
  readonly topK?: number;
  /** Draw among the most likely tokens that together have this probability. */
  readonly topP?: number;
  /** Draw among tokens with at least this share of the most likely one's probability. */
  readonly minP?: number;
}

type FilteredRequest = SampleRequest & Sampling;

/** Draws tokens; every request of the commands and of the server goes through here. */
export function sample(sampler: Sampler, request: FilteredRequest): Promise<Completion> {
  return sampler.generate(request);
}

/** Where the noise of one answer comes from: the same seed, choice and turn give the same noise whatever else is drawn. */
export function noiseSite(seed: number, choice = 0, turn = 0): SampleRequest["site"] {
  const bits = BigInt.asUintN(64, BigInt(seed));
  return { step: Number(bits & 0xffffffffn), task: Number(bits >> 32n), sample: choice, turn };
}
