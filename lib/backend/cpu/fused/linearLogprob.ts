import { fastExp } from "../../../exp.js";
import { logprobOf, rowStatistics } from "../../../logits.js";
import type { FusedKernels } from "../../backend.js";
import { type HostMemory, wideOf } from "./host.js";

/** Logits held at once: about this many, but never fewer rows than let the product read the weight seldom. */
const CHUNK = 1 << 20;
const FEWEST_ROWS = 64;

function chunkRows(tokens: number, vocabulary: number): number {
  return Math.max(1, Math.min(tokens, Math.max(FEWEST_ROWS, Math.floor(CHUNK / vocabulary))));
}

export function linearLogprobKernels(host: HostMemory): Pick<FusedKernels, "linearLogprob" | "linearLogprobBackward"> {
  return {
    linearLogprob(hidden, weight, targets, temperature) {
      const [h, w, target] = [host.read(hidden), host.read(weight), host.readInts(targets)];
      const [tokens, width] = hidden.shape;
      const [vocabulary] = weight.shape;
      checkTargets(target, vocabulary);
      const [logprobs, entropy, lse] = [0, 1, 2].map(() => host.output(wideOf(hidden), tokens));
      const scale = 1 / temperature;
      const rows = chunkRows(tokens, vocabulary);
      const z = host.scratch(h, rows * vocabulary);
      for (let from = 0; from < tokens; from += rows) {
        const count = Math.min(rows, tokens - from);
        const part = h.subarray(from * width);
        // Scaled after the product, in f64, as where a token is drawn: the two log-probs have the same bits.
        host.rowProduct(count, vocabulary, width, part, w, z);
        for (let i = 0; i < count; i++) {
          const at = i * vocabulary;
          const row = rowStatistics(z, at, vocabulary, scale);
          lse.data[from + i] = scale * row.best + row.log;
          logprobs.data[from + i] = logprobOf(z[at + target[from + i]], row, scale);
          entropy.data[from + i] = row.entropy;
        }
      }
      host.release(z);
      return { logprobs: logprobs.done(), entropy: entropy.done(), lse: lse.done() };
    },

    linearLogprobBackward(dLogprobs, dEntropy, hidden, weight, targets, entropy, lse, temperature) {
      const [dl, de, h, w] = [dLogprobs, dEntropy, hidden, weight].map((ref) => host.read(ref));
      const [ent, ls, target] = [host.read(entropy), host.read(lse), host.readInts(targets)];
      const [tokens, width] = hidden.shape;
      const [vocabulary] = weight.shape;
      const dHidden = host.output(hidden.storage.dtype, h.length);
      const dWeight = host.output(weight.storage.dtype, w.length);
      dWeight.data.fill(0);
      const scale = 1 / temperature;
      const rows = chunkRows(tokens, vocabulary);
      const z = host.scratch(h, rows * vocabulary);
      for (let from = 0; from < tokens; from += rows) {
        const count = Math.min(rows, tokens - from);
        const part = h.subarray(from * width);
        // As in the forward pass, to the bit: lse fits no others as well.
        host.rowProduct(count, vocabulary, width, part, w, z);
        for (let i = 0; i < count; i++) {
          const at = i * vocabulary;
          const [dLogprob, dEnt] = [dl[from + i] * scale, de[from + i] * scale];
          // ∂logprob/∂z = 1[target] − p; ∂entropy/∂z = −p·(log p + entropy).
          for (let j = at; j < at + vocabulary; j++) {
            const logp = scale * z[j] - ls[from + i];
            z[j] = -fastExp(logp) * (dLogprob + dEnt * (logp + ent[from + i]));
          }
          z[at + target[from + i]] += dLogprob;
        }
        const into = dHidden.data.subarray(from * width);
        host.gemm(false, false, count, width, vocabulary, 1, z, vocabulary, w, width, 0, into, width);
        host.gemm(true, false, vocabulary, width, count, 1, z, vocabulary, part, width, 1, dWeight.data, width);
      }
      host.release(z);
      return { dHidden: dHidden.done(), dWeight: dWeight.done() };
    },
  };
}

function checkTargets(targets: Int32Array, vocabulary: number): void {
  for (const target of targets) {
    if (target < 0 || target >= vocabulary) {
      throw new Error(`linearLogprob: target ${target} is outside the vocabulary [0, ${vocabulary})`);
    }
  }
}
