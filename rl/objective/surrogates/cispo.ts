import type { Surrogate } from "./surrogate.js";
import { tokenwise } from "./tokenwise.js";

/**
 * CISPO (MiniMax-M1, arXiv 2506.13585): the clipped ratio is a constant weight, so that no token loses its gradient.
 * With x = log π − log π_old clamped to ±20 and c = clamp(e^x, 1−clipLow, 1+clipHigh):
 *
 *     L = −c·A·log π        ∂L/∂log π = −c·A
 */
export const cispo: Surrogate = {
  scope: "token",
  prepare: ({ clipLow, clipHigh }) =>
    tokenwise(({ advantage, logprob, x }, out) => {
      const ratio = Math.exp(x);
      const weight = Math.min(Math.max(ratio, 1 - clipLow), 1 + clipHigh);
      out.derivative = -weight * advantage;
      out.loss = out.derivative * logprob;
      out.clipped = weight !== ratio;
    }),
};
