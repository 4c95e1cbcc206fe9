import type { DType } from "../../../dtype.js";
import type { ArrayRef, FusedKernels, HeadLayout, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { CudaDevice } from "../device.js";
import type { Defines, Kernel } from "../kernels.js";
import { causalFlops, cType } from "../launch.js";
import type { WorkLists } from "../workList.js";

/** Which kernels compute an attention, and their shape; constants as in kernels/attentionTile.cuh. */
export interface AttentionVariant {
  /** Tensor cores (`mma.sync`) instead of CUDA cores. */
  readonly mma: boolean;
  readonly defines: Defines;
  /** Flat rows of a block, and threads of a block. */
  readonly rows: number;
  readonly block: number;
  /** Bytes of shared memory of the forward and of the backward kernels. */
  readonly shared: number;
  readonly backwardShared: number;
  /** Factors of the scores: arguments of every kernel that makes scores. */
  readonly scales: readonly number[];
  /** A kernel of this variant, kept. */
  kernel(file: string, entry: string, signature: string, shared?: number, more?: Defines): Kernel;
}

/** The variant for an array and a layout. */
export function attentionVariants(device: CudaDevice): (x: ArrayRef, layout: HeadLayout) => AttentionVariant {
  const known = new Map<string, AttentionVariant>();
  return ({ storage: { dtype } }, { headDim }) => {
    const key = `${dtype} ${headDim}`;
    const old = known.get(key);
    if (old) return old;
    const kernels = new Map<string, Kernel>();
    const shape = variantShape(dtype, headDim);
    const kernel: AttentionVariant["kernel"] = (file, entry, signature, shared = 0, more = {}) => {
      const name = `${entry} ${shared} ${Object.values(more)}`;
      let found = kernels.get(name);
      if (!found) {
        found = device.kernels.get(file, entry, signature, { ...shape.defines, ...more }, shared);
        kernels.set(name, found);
      }
      return found;
    };
    const variant = { ...shape, kernel };
    known.set(key, variant);
    return variant;
  };
}

/** What does not depend on the device. */
export function variantShape(dtype: DType, headDim: number): Omit<AttentionVariant, "kernel"> {
  const scale = headDim ** -0.5;
  if (dtype === "bf16" && (headDim === 64 || headDim === 128)) {
    return {
      mma: true,
      defines: { MMA: 1, HEAD_DIM: headDim },
      ...{ rows: 64, block: 128 },
      shared: 320 * headDim * 2,
      backwardShared: 384 * headDim * 2 + 1024,
      scales: [scale, scale * Math.LOG2E],
    };
  }
  if (headDim > 256) throw new Error(`attention: cuda computes heads of up to 256 dimensions, not ${headDim}`);
  const rows = headDim <= 128 ? 32 : 16;
  const rowFloats = Math.ceil((rows * headDim) / 4) * 4;
  const tileFloats = 2 * 32 * (headDim + (headDim % 4 === 0 ? 4 : 1)) + 32;
  return {
    mma: false,
    defines: { DTYPE: cType("attention", dtype), HEAD_DIM: headDim },
    ...{ rows, block: 256 },
    shared: 4 * (rowFloats + tileFloats),
    backwardShared: 4 * (2 * rowFloats + tileFloats),
    scales: [dtype === "f32" ? scale : scale * Math.LOG2E],
  };
}

/** What `attention_*` kernels read of a batch: items of eight i32, see `struct Item` in kernels/attentionTile.cuh. */
export type Item = readonly [
  query: number,
  first: number,
  flat: number,
  flats: number,
  keys: number,
  chunk: number,
  slot: number,
  reserved: 0,
];

/** Tiles of `step` out of `counts[s]` rows of each sequence that starts at row offsets[s], those with most work first. */
function packedItems(offsets: Int32Array, step: number, perToken: number, longestFirst: boolean): Int32Array {
  const items: Item[] = [];
  for (let s = 0; s + 1 < offsets.length; s++) {
    const flats = (offsets[s + 1] - offsets[s]) * perToken;
    for (let flat = 0; flat < flats; flat += step) items.push([offsets[s], 0, flat, flats, offsets[s], -1, -1, 0]);
  }
  const work = ([, , flat, flats]: Item) => (longestFirst ? flat : flats - flat);
  return Int32Array.from(items.sort((a, b) => work(b) - work(a)).flat());
}

/** Attention by kernels/attentionMma.cu (bf16, headDim 64 or 128) or kernels/attentionPlain.cu (all else). */
export function attentionPlain(
  { device, empty }: CudaContext,
  lists: WorkLists,
): Pick<FusedKernels, "attention" | "attentionBackward"> {
  const variantOf = attentionVariants(device);
  const whole = (storage: Storage) => device.address({ storage, offset: 0, shape: [] });

  return {
    /** x [tokens, (heads + 2·kvHeads)·headDim] → y [tokens, heads·headDim], lse f32 [tokens, heads] (natural logarithm). */
    attention(x, offsets, layout) {
      const { heads, kvHeads, headDim } = layout;
      const tokens = x.shape[0];
      const y = empty(x.storage.dtype, tokens * heads * headDim, "attention");
      const lse = empty("f32", tokens * heads, "attention statistics");
      const { mma, rows, block, shared, scales, kernel } = variantOf(x, layout);
      const group = heads / kvHeads;
      const items = lists(offsets, `${rows} ${group}`, () => packedItems(offsets, rows, group, true));
      const fn = mma
        ? kernel("attentionMma", "attention_mma", "ppiiffpp", shared)
        : kernel("attentionPlain", "attention_plain", "ppiifpp", shared);
      device.launch(fn, [device.address(x), items.address, heads, kvHeads, ...scales, whole(y), whole(lse)], {
        grid: [items.words.length / 8, kvHeads],
        block,
        shared,
        flops: causalFlops(offsets, heads, headDim),
      });
      return { y, lse };
    },

    /** dx, of x's shape and dtype: deterministic, every element written. */
    attentionBackward(dy, x, y, lse, offsets, layout) {
      const { heads, kvHeads, headDim } = layout;
      const tokens = x.shape[0];
      const dx = empty(x.storage.dtype, tokens * (heads + 2 * kvHeads) * headDim, "attention gradient");
      const { mma, rows, block, backwardShared, scales, kernel } = variantOf(x, layout);
      const group = heads / kvHeads;
      const plain = { DTYPE: cType("attention", x.storage.dtype), HEAD_DIM: headDim };
      const sumDelta = device.kernels.get("attentionPlain", "attention_delta", "pppl", plain);
      const gradient = (name: string): Kernel =>
        mma
          ? kernel("attentionMma", `attention_mma_${name}`, "pppppiiffp", backwardShared)
          : kernel("attentionPlain", `attention_plain_${name}`, "pppppiiffp", backwardShared);
      const factors = mma ? scales : [scales[0], headDim ** -0.5];
      device.withScratch(4 * tokens * heads, "attention delta", (delta) => {
        const [dyAt, xAt, yAt, lseAt] = [dy, x, y, lse].map((array) => device.address(array));
        device.launch(sumDelta, [dyAt, yAt, delta, tokens * heads], {
          grid: [Math.ceil((tokens * heads) / 8)],
          block: 256,
        });
        for (const [name, perToken, products] of [
          ["dq", group, 1.5],
          ["dkv", 1, 2],
        ] as const) {
          const queries = name === "dq";
          const { address, words } = lists(offsets, queries ? `${rows} ${group}` : `${rows} keys`, () =>
            packedItems(offsets, rows, perToken, queries),
          );
          device.launch(gradient(name), [dyAt, xAt, lseAt, delta, address, heads, kvHeads, ...factors, whole(dx)], {
            grid: [words.length / 8, kvHeads],
            block,
            shared: backwardShared,
            flops: products * causalFlops(offsets, heads, headDim),
          });
        }
      });
      return dx;
    },
  };
}
