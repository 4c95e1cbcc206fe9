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

/**
 * Clip-Cov: PPO's clipped loss, without ⌊covShare·N⌋ (at least one) of the mini-batch's N tokens, drawn from those not
 * clipped whose covariance lies between covLow and covHigh. `clipfrac` counts the tokens drawn.
 */
export const clipCov: Surrogate = {
  scope: "batch",
  prepare(options, rows, outputs) {
    const unbounded = { ...options, dualClip: Number.POSITIVE_INFINITY };
    const { covLow, covHigh, seed } = options;
    const { covariances, count } = covariancesOf(rows, outputs);
    const [openRows, openTokens]: number[][] = [[], []];
    forEachToken(rows, (j, t) => {
      const covariance = covariances[j][t];
      if (!(covariance > covLow && covariance < covHigh)) return;
      if (isClipped(rows[j], outputs[j].logprobs, t, options)) return;
      openRows.push(j);
      openTokens.push(t);
    });
    const drawn = outputs.map(({ logprobs }) => new Uint8Array(logprobs.length));
    for (const place of draw(openRows.length, shareOf(count, options), seed)) {
      drawn[openRows[place]][openTokens[place]] = 1;
    }
    return tokenwise((place, out) => {
      clippedTerm(place, unbounded, out);
      out.clipped = drawn[place.j][place.t] === 1;
      if (out.clipped) out.loss = out.derivative = 0;
    });
  },
};

/**
 * KL-Cov: −A·e^x without clipping, and covKl·|x| more for the ⌊covShare·N⌋ (at least one; all that tie) tokens of the
 * largest covariance. `clipfrac` counts these.
 */
export const klCov: Surrogate = {
  scope: "batch",
  prepare(options, rows, outputs) {
    const { covariances, count } = covariancesOf(rows, outputs);
    const sorted = new Float64Array(count);
    let at = 0;
    forEachToken(rows, (j, t) => {
      sorted[at++] = covariances[j][t];
    });
    sorted.sort();
    const threshold = sorted[count - Math.min(count, shareOf(count, options))];
    return tokenwise(({ j, t, advantage, x, inRange }, out) => {
      const isHeld = covariances[j][t] >= threshold;
      const plain = -advantage * Math.exp(x);
      out.loss = plain + (isHeld ? options.covKl * Math.abs(x) : 0);
      out.derivative = inRange ? plain + (isHeld ? options.covKl * Math.sign(x) : 0) : 0;
      out.clipped = isHeld;
    });
  },
};

function forEachToken(rows: readonly PolicyRow[], visit: (j: number, t: number) => void): void {
  rows.forEach(({ turns }, j) => {
    for (const { start, end } of turns) for (let t = start; t < end; t++) visit(j, t);
  });
}

/** The covariance of every sampled token, [tokens] a row, and their number. */
function covariancesOf(rows: readonly PolicyRow[], outputs: readonly Outputs[]) {
  let [count, advantage, logprob] = [0, 0, 0];
  forEachToken(rows, (j, t) => {
    count++;
    advantage += rows[j].advantages[t];
    logprob += outputs[j].logprobs[t];
  });
  const covariances = outputs.map(({ logprobs }) => new Float64Array(logprobs.length));
  forEachToken(rows, (j, t) => {
    covariances[j][t] = (rows[j].advantages[t] - advantage / count) * (outputs[j].logprobs[t] - logprob / count);
  });
  return { covariances, count };
}

function shareOf(count: number, { covShare }: SurrogateOptions): number {
  return Math.max(1, Math.floor(covShare * count));
}

/** `wanted` distinct numbers below `count`, or all of them (the beginning of a Fisher-Yates shuffle). */
function draw(count: number, wanted: number, seed: number): number[] {
  const random = randomStream(seed);
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  return Array.from({ length: Math.min(count, wanted) }, (_, i) => {
    const other = i + random.int(count - i);
    [order[i], order[other]] = [order[other], order[i]];
    return order[i];
  });
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
