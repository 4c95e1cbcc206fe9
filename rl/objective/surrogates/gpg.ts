import type { Surrogate } from "./surrogate.js";
import { tokenwise } from "./tokenwise.js";

/** The plain policy gradient of GPG (arXiv 2504.02546): L = −A·log π. On policy only: no ratio corrects an older one. */
export const gpg: Surrogate = {
  scope: "token",
  prepare: () =>
    tokenwise(({ advantage, logprob }, out) => {
      out.derivative = -advantage;
      out.loss = -advantage * logprob;
    }),
};
