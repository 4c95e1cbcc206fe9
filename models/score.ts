import { Arena, InputError, noGrad, tensor } from "../lib/index.js";
import { pack } from "./batch.js";
import type { Qwen } from "./qwen.js";

/** What a model thinks of sequences. */
export interface Scores {
  /** Per sequence [length − 1]: natural-log probability of token t+1 given tokens ≤ t. */
  readonly logprobs: readonly Float32Array[];
  /** Per sequence [length]: entropy in nats of the distribution after tokens ≤ t. */
  readonly entropy: readonly Float32Array[];
}

/**
 * Scores whole sequences without gradient, as many together as `batchTokens` allows.
 * @throws InputError where a sequence is empty, too long for the model, or has an id outside the vocabulary.
 */
export async function score(
  model: Qwen,
  sequences: readonly ArrayLike<number>[],
  { batchTokens = 8192, temperature = 1 } = {},
): Promise<Scores> {
  sequences.forEach((sequence, i) => {
    checkSequence(model, sequence, i);
  });
  const logprobs: Float32Array[] = [];
  const entropy: Float32Array[] = [];
  for (const group of batches(sequences, batchTokens)) {
    using arena = new Arena();
    const { offsets, out } = arena.run(() =>
      noGrad(() => {
        const batch = pack(group, model.backend);
        const targets = group.flatMap((sequence) => [...Array.prototype.slice.call(sequence, 1), 0]);
        const device = { backend: model.backend, dtype: "i32" } as const;
        return {
          offsets: batch.offsets,
          out: model.logprobs(model.forward(batch), tensor(targets, device), temperature),
        };
      }),
    );
    const [l, e] = (await Promise.all([out.logprobs.data(), out.entropy.data()])) as Float32Array[];
    group.forEach((_, s) => {
      logprobs.push(l.slice(offsets[s], offsets[s + 1] - 1));
      entropy.push(e.slice(offsets[s], offsets[s + 1]));
    });
  }
  return { logprobs, entropy };
}

function checkSequence(model: Qwen, sequence: ArrayLike<number>, index: number): void {
  const { maxPositions, vocabSize } = model.config;
  if (sequence.length === 0) throw new InputError(`sequence ${index} is empty; give at least one token`);
  if (sequence.length > maxPositions) {
    throw new InputError(
      `sequence ${index} has ${sequence.length} tokens; the model allows ${maxPositions}: shorten it`,
    );
  }
  for (let i = 0; i < sequence.length; i++) {
    if (!Number.isInteger(sequence[i]) || sequence[i] < 0 || sequence[i] >= vocabSize) {
      throw new InputError(`sequence ${index}: ${sequence[i]} at ${i} is no token id; ids are 0 to ${vocabSize - 1}`);
    }
  }
}

/** Cuts a list of sequences into runs of at most `budget` tokens, or of one longer sequence. */
export function batches<T extends ArrayLike<number>>(sequences: readonly T[], budget: number): T[][] {
  const groups: T[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const sequence of sequences) {
    if (tokens + sequence.length > budget) {
      groups.push([]);
      tokens = 0;
    }
    groups.at(-1)!.push(sequence);
    tokens += sequence.length;
  }
  return groups;
}
