/**
 * Surrogates that hold back the tokens that cost entropy, those whose log-prob and advantage vary together (Clip-Cov and
 * KL-Cov of "The Entropy Mechanism", arXiv 2505.22617): cov[t] = (A[t] − mean A)·(log π(t) − mean log π), means over the
 * mini-batch's sampled tokens. The covariances are constants to the gradient.
 */
import { randomStream } from "../../../lib/random.js";
import type { Outputs } from "../loss.js";
import { clippedTerm } from "./ppo.js";
import type { PolicyRow, Surrogate, SurrogateOptions } from "./surrogate.js";
import { tokenwise } from "./tokenwise.js";

interface Candidate {
  readonly j: number;
  readonly t: number;
  readonly covariance: number;
}

/**
 * Clip-Cov: PPO's clipped loss, without ⌊covShare·N⌋ (at least one) of the mini-batch's N tokens, drawn from those not
 * clipped whose covariance lies between covLow and covHigh. `clipfrac` counts the tokens drawn.
 */
export const clipCov: Surrogate = {
  scope: "batch",
  prepare(options, rows, outputs) {
    const unbounded = { ...options, dualClip: Number.POSITIVE_INFINITY };
    const { covLow, covHigh, seed } = options;
    const all = covariances(rows, outputs);
    const open = all.filter(
      ({ j, t, covariance }) =>
        covariance > covLow && covariance < covHigh && !isClipped(rows[j], outputs[j].logprobs, t, options),
    );
    const drawn = marks(rows, outputs, randomStream(seed).shuffle(open).slice(0, shareOf(all, options)));
    return tokenwise((place, out) => {
      clippedTerm(place, unbounded, out);
      out.clipped = drawn[place.j][place.t] === 1;
      if (out.clipped) out.loss = out.derivative = 0;
    });
  },
};

/**
 * KL-Cov: −A·e^x without clipping, and covKl·|x| more for the ⌊covShare·N⌋ (at least one) tokens of the largest
 * covariance. `clipfrac` counts these.
 */
export const klCov: Surrogate = {
  scope: "batch",
  prepare(options, rows, outputs) {
    const all = covariances(rows, outputs).sort((a, b) => b.covariance - a.covariance);
    const largest = marks(rows, outputs, all.slice(0, shareOf(all, options)));
    return tokenwise(({ j, t, advantage, x, inRange }, out) => {
      const isHeld = largest[j][t] === 1;
      const plain = -advantage * Math.exp(x);
      out.loss = plain + (isHeld ? options.covKl * Math.abs(x) : 0);
      out.derivative = inRange ? plain + (isHeld ? options.covKl * Math.sign(x) : 0) : 0;
      out.clipped = isHeld;
    });
  },
};

function covariances(rows: readonly PolicyRow[], outputs: readonly Outputs[]): Candidate[] {
  const places = rows.flatMap(({ turns }, j) =>
    turns.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => ({ j, t: start + i }))),
  );
  const mean = (value: (place: { j: number; t: number }) => number) =>
    places.reduce((sum, place) => sum + value(place), 0) / places.length;
  const advantage = mean(({ j, t }) => rows[j].advantages[t]);
  const logprob = mean(({ j, t }) => outputs[j].logprobs[t]);
  return places.map(({ j, t }) => ({
    ...{ j, t },
    covariance: (rows[j].advantages[t] - advantage) * (outputs[j].logprobs[t] - logprob),
  }));
}

function shareOf(all: readonly Candidate[], { covShare }: SurrogateOptions): number {
  return Math.max(1, Math.floor(covShare * all.length));
}

function isClipped(
  { oldLogprobs, advantages }: PolicyRow,
  logprobs: ArrayLike<number>,
  t: number,
  { clipLow, clipHigh }: SurrogateOptions,
): boolean {
  const ratio = Math.exp(logprobs[t] - oldLogprobs[t]);
  return advantages[t] > 0 ? ratio > 1 + clipHigh : advantages[t] < 0 && ratio < 1 - clipLow;
}

/** 1 at the chosen tokens. */
function marks(rows: readonly PolicyRow[], outputs: readonly Outputs[], chosen: readonly Candidate[]): Uint8Array[] {
  const marked = rows.map((_, j) => new Uint8Array(outputs[j].logprobs.length));
  for (const { j, t } of chosen) marked[j][t] = 1;
  return marked;
}
