import { type Backend, type Tensor, tensor } from "../lib/index.js";

/** Sequences laid end to end on one token axis, without padding. */
export interface PackedBatch {
  /** i32 [tokens] */
  readonly ids: Tensor;
  /** i32 [tokens]: place of each token in its own sequence, from 0. */
  readonly positions: Tensor;
  /** [sequences + 1], on the host: sequence s owns the rows offsets[s] … offsets[s+1]−1. */
  readonly offsets: Int32Array;
}

/** Packs sequences of token ids. `starts` gives the position of each sequence's first token (default 0). */
export function pack(
  sequences: readonly ArrayLike<number>[],
  backend: Backend,
  starts?: readonly number[],
): PackedBatch {
  const offsets = new Int32Array(sequences.length + 1);
  sequences.forEach((sequence, s) => {
    offsets[s + 1] = offsets[s] + sequence.length;
  });
  const tokens = offsets[sequences.length];
  const ids = new Int32Array(tokens);
  const positions = new Int32Array(tokens);
  sequences.forEach((sequence, s) => {
    ids.set(sequence, offsets[s]);
    for (let i = 0; i < sequence.length; i++) positions[offsets[s] + i] = (starts?.[s] ?? 0) + i;
  });
  const device = { backend, dtype: "i32" } as const;
  return { ids: tensor(ids, device), positions: tensor(positions, device), offsets };
}
