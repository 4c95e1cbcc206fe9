import type { Surrogate, SurrogateOptions } from "./surrogate.js";
import { type TokenPlace, type TokenTerm, tokenwise } from "./tokenwise.js";

/**
 * PPO's clipped surrogate (arXiv 1707.06347) with separate clip ranges (DAPO, arXiv 2503.14476) and the dual clip (arXiv
 * 1912.09729). Per sampled token, with x = log π − log π_old clamped to ±20:
 *
 *     L1 = −A·e^x    L2 = −A·clamp(e^x, 1−clipLow, 1+clipHigh)    L = max(L1, L2), and at most −A·dualClip where A < 0
 */
export const ppo: Surrogate = {
  scope: "token",
  prepare: (options) => tokenwise((place, out) => clippedTerm(place, options, out)),
};

/** The same for one token. `clipped`: L2 > L1. `capped`: the dual clip binds. */
export function clippedTerm(
  { advantage, x, inRange }: TokenPlace,
  { clipLow, clipHigh, dualClip }: Pick<SurrogateOptions, "clipLow" | "clipHigh" | "dualClip">,
  out: TokenTerm,
): void {
  const ratio = Math.exp(x);
  const unclipped = -advantage * ratio;
  const clipped = -advantage * Math.min(Math.max(ratio, 1 - clipLow), 1 + clipHigh);
  const larger = Math.max(unclipped, clipped);
  const cap = -advantage * dualClip;
  out.clipped = clipped > unclipped;
  out.capped = advantage < 0 && larger > cap;
  out.loss = out.capped ? cap : larger;
  out.derivative = !out.capped && !out.clipped && inRange ? unclipped : 0;
}
