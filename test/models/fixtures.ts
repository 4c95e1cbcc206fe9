import { openSafetensors, type Tensor, tensor } from "../../lib/index.js";
import { pack, type Qwen } from "../../models/index.js";
import { fixture } from "../support.js";

export const fixtureModels = ["tiny-qwen2", "tiny-qwen3", "small-qwen2-hd128"] as const;

/** Expected values of one fixture, computed in f64 by transformers. */
export interface Expected {
  /** Sequences without padding. */
  readonly sequences: readonly (readonly number[])[];
  values(name: string): Float32Array;
  /** The part of a padded [3, T] or [3, T−1] array that belongs to row i. */
  row(name: string, i: number, length: number): Float32Array;
  readonly names: readonly string[];
}

export async function loadExpected(model: string): Promise<Expected> {
  await using file = await openSafetensors(fixture(model, "expected.safetensors"));
  const arrays = new Map<string, Float32Array | Int32Array>();
  for (const [name, { dtype }] of file.tensors) {
    const bytes = await file.read(name);
    arrays.set(name, dtype === "I32" ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer));
  }
  const widths = new Map([...file.tensors].map(([name, { shape }]) => [name, shape[1]]));
  const lengths = [...arrays.get("lengths")!];
  const ids = arrays.get("input_ids")!;
  const inputWidth = widths.get("input_ids")!;
  return {
    sequences: lengths.map((length, i) => [...ids.slice(i * inputWidth, i * inputWidth + length)]),
    values: (name) => arrays.get(name) as Float32Array,
    row: (name, i, length) => {
      const start = i * widths.get(name)!;
      return arrays.get(name)!.slice(start, start + length) as Float32Array;
    },
    names: [...arrays.keys()],
  };
}

/** The fixture's loss, −Σ(logprobs·w) / Σ|w|, over packed sequences; differentiable. */
export function fixtureLoss(model: Qwen, expected: Expected): Tensor {
  const { backend } = model;
  const batch = pack(expected.sequences, backend);
  const targets: number[] = [];
  const weights: number[] = [];
  expected.sequences.forEach((sequence, i) => {
    targets.push(...sequence.slice(1), 0);
    weights.push(...expected.row("loss_weights", i, sequence.length - 1), 0);
  });
  const total = weights.reduce((sum, weight) => sum + Math.abs(weight), 0);
  const { logprobs } = model.logprobs(
    model.forward(batch),
    tensor(Int32Array.from(targets), { backend, dtype: "i32" }),
  );
  return logprobs
    .mul(
      tensor(
        weights.map((weight) => -weight / total),
        { backend },
      ),
    )
    .sum();
}

/** ‖a − b‖ / ‖b‖ and the cosine between them. */
export function compare(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
): { relative: number; cosine: number; norm: number } {
  let [difference, aa, bb, ab] = [0, 0, 0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i] - b[i]) ** 2;
    aa += a[i] ** 2;
    bb += b[i] ** 2;
    ab += a[i] * b[i];
  }
  return { relative: Math.sqrt(difference / bb), cosine: ab / Math.sqrt(aa * bb), norm: Math.sqrt(bb) };
}

export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let worst = 0;
  for (let i = 0; i < b.length; i++) worst = Math.max(worst, Math.abs(a[i] - b[i]));
  return a.length === b.length ? worst : Number.POSITIVE_INFINITY;
}
