import type { DType, TypedArray } from "../dtype.js";
import type { Shape } from "../shape.js";

/**
 * The contract of a backend: the primitives every device must have, and the fused kernels it may have.
 *
 * A backend computes; it is *not* responsible for checking shapes, promoting or validating dtypes, differentiating, or
 * deciding how long a buffer lives. Callers in lib/ops have checked every argument, and lib/arena.ts frees what was
 * allocated. Floating inputs of one call share one dtype; 16-bit floats accumulate in f32. Each function returns fresh
 * storage and leaves its inputs alone, except those marked *in place*.
 */
export interface Backend {
  /** Device name as the user writes it: `cpu`, `tfjs:wasm`, `cuda:0`. */
  readonly name: string;
  /** One line about engine, library and threads, for people. */
  readonly description: string;
  /** Element types the device can hold. */
  readonly dtypes: ReadonlySet<DType>;

  /** Copies host data in. `data` holds `dtype` (16-bit floats as bit patterns). */
  upload(dtype: DType, data: TypedArray): Storage;
  /** Copies out. The copy is enqueued before this returns, so the array may be freed or overwritten at once. */
  download(x: ArrayRef): Promise<TypedArray>;
  free(storage: Storage): void;
  memory(): MemoryUse;

  fill(dtype: DType, size: number, value: number): Storage;
  cast(x: ArrayRef, dtype: DType): Storage;
  unary(op: UnaryOp, x: ArrayRef): Storage;
  /** NumPy broadcasting to `shape`; comparisons give `bool`. */
  binary(op: BinaryOp, a: ArrayRef, b: ArrayRef, shape: Shape): Storage;
  where(condition: ArrayRef, a: ArrayRef, b: ArrayRef, shape: Shape): Storage;
  /** Reduces the middle axis of x seen as [outer, length, inner]. `argmax` gives i32, the first of equals. */
  reduce(op: ReduceOp, x: ArrayRef, outer: number, length: number, inner: number): Storage;
  /**
   * [batch, m, k] · [batch, k, n] (+ bias [n]) (+ addend [batch, m, n]); a transposed operand is stored with its last two
   * axes swapped. The sum is rounded once.
   */
  matmul(a: ArrayRef, b: ArrayRef, spec: MatmulSpec, bias?: ArrayRef, addend?: ArrayRef): Storage;
  permute(x: ArrayRef, axes: readonly number[]): Storage;
  slice(x: ArrayRef, starts: readonly number[], sizes: readonly number[]): Storage;
  /** Joins arrays seen as [outer, length_i, inner] along the middle axis. */
  concat(parts: readonly ArrayRef[], outer: number, lengths: readonly number[], inner: number): Storage;
  /** Rows of x [rows, columns] by index [n] (i32); index −1 gives a row of zeros. */
  gatherRows(x: ArrayRef, index: ArrayRef): Storage;
  /** Sum of the rows of x [n, columns] into [rows, columns] by index, in the order of x; index −1 is dropped. */
  scatterRows(x: ArrayRef, index: ArrayRef, rows: number): Storage;
  /** x [n, columns] at index [n]: one element a row. */
  pick(x: ArrayRef, index: ArrayRef): Storage;
  /** The transpose of `pick`: [n, columns], zero but for x [n] at index [n]. */
  unpick(x: ArrayRef, index: ArrayRef, columns: number): Storage;

  /** *In place*: target = source. */
  assign(target: ArrayRef, source: ArrayRef): void;
  /** *In place*: target += source; the source may have another floating dtype. */
  accumulate(target: ArrayRef, source: ArrayRef): void;
  /** *In place*: rows of target [rows, columns] at index [n] = source [n, columns]. */
  setRows(target: ArrayRef, index: ArrayRef, source: ArrayRef): void;

  readonly fused: Partial<FusedKernels>;
  /** Gives back what the device holds. */
  close(): void;
}

/** A device buffer. What the handle is, only its backend knows. */
export class Storage {
  /** Raised by every in-place write; backward refuses saved arrays whose version has moved. */
  version = 0;
  freed = false;
  /** How many recorded operations need this buffer for their gradient. */
  saved = 0;
  constructor(
    readonly backend: Backend,
    readonly dtype: DType,
    readonly size: number,
    public handle: unknown,
  ) {}
}

/** A contiguous piece of a storage with a shape; every Tensor is one. */
export interface ArrayRef {
  readonly storage: Storage;
  /** In elements. */
  readonly offset: number;
  readonly shape: Shape;
}

export interface MemoryUse {
  /** Bytes in live storages. */
  readonly bytes: number;
  /** Live storages. */
  readonly buffers: number;
  /** Largest `bytes` so far. */
  readonly peakBytes: number;
}

export interface MatmulSpec {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

export type UnaryOp =
  | "neg"
  | "abs"
  | "sign"
  | "exp"
  | "log"
  | "sqrt"
  | "rsqrt"
  | "square"
  | "reciprocal"
  | "sigmoid"
  | "silu"
  | "tanh"
  | "relu"
  | "sin"
  | "cos"
  | "logicalNot";

export type ArithmeticOp = "add" | "sub" | "mul" | "div" | "maximum" | "minimum" | "pow";
export type CompareOp = "equal" | "notEqual" | "less" | "lessEqual" | "greater" | "greaterEqual";
export type BinaryOp = ArithmeticOp | CompareOp;
export type ReduceOp = "sum" | "max" | "argmax";

/** Where the heads lie in a fused projection row: heads·headDim of q, then kvHeads·headDim of k, then of v. */
export interface HeadLayout {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Rotary frequencies: angle of pair j at position p is p·theta^(−2j/headDim). */
export interface Rotation extends HeadLayout {
  readonly theta: number;
  /** Positions are below this, where a backend keeps a table of angles. Default 32,768. */
  readonly maxPositions?: number;
}

/** Which cached rows each sequence of a packed batch attends to. All arrays are on the host. */
export interface PagedContext {
  /** [sequences + 1]: sequence s owns the packed rows offsets[s] … offsets[s+1]−1, its newest tokens. */
  readonly offsets: Int32Array;
  /** [sequences]: tokens in the cache, the new ones included. */
  readonly lengths: Int32Array;
  /** Pages of each sequence in order; page p holds cache rows p·pageSize … (p+1)·pageSize−1. */
  readonly pages: readonly (readonly number[])[];
  readonly pageSize: number;
}

/**
 * Sequences that decode, one in each slot, with their state on the device: a step finds there what it needs and leaves what
 * the next one needs, so that steps follow each other without the host. All arrays are i32.
 */
export interface PagedSlots {
  /** [slots]: tokens in the cache, the new one included; 0 is an empty slot. */
  readonly lengths: ArrayRef;
  /** [slots, pages]: pages of each sequence in order. */
  readonly table: ArrayRef;
  readonly pageSize: number;
  /** Chunks of keys that the longest sequence may have by the end of the step. */
  readonly chunks: number;
  /** [slots·(chunks + 1)·8]: working memory of the step. */
  readonly work: ArrayRef;
}

/** What `advanceSlots` moves on: next input, its position, its row in the cache, and how many tokens may still be drawn. */
export interface SlotState {
  /** [slots] each; −1 in an empty slot's `tokens` and `rows`. */
  readonly tokens: ArrayRef;
  readonly positions: ArrayRef;
  readonly rows: ArrayRef;
  readonly remaining: ArrayRef;
  /** [slots, 8]: ids that end a sequence, −1 for none. */
  readonly stops: ArrayRef;
}

/** How the token of each row of logits is drawn; arrays [rows]. See lib/random.ts and models/sampling for the meaning. */
export interface Draws {
  /** f32; 0 takes the most likely token. */
  readonly temperature: ArrayRef;
  /** f32; 1 is off. */
  readonly topP: ArrayRef;
  /** f32; 0 is off. */
  readonly minP: ArrayRef;
  /** i32; 0 is off. */
  readonly topK: ArrayRef;
  /** i32 [rows, 3]: step, task, sample·2¹⁶ + turn. */
  readonly site: ArrayRef;
  /** i32: the position of the token that is drawn; 0 for a row of which none is. */
  readonly positions: ArrayRef;
  readonly key: readonly [number, number];
}

/** Work that was recorded once and is enqueued whole. */
export interface Recording {
  launch(): void;
  dispose(): void;
}

/** A parameter with the state that AdamW keeps of it; `master` is `param` where that is f32 (f64) itself. */
export interface AdamwSlot {
  readonly param: ArrayRef;
  readonly master: ArrayRef;
  readonly grad: ArrayRef;
  readonly m: ArrayRef;
  readonly v: ArrayRef;
}

/** Step of AdamW with decoupled decay: see optim/adamw.ts for the formula. */
export interface AdamwStep {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** 1-based number of this step, for bias correction. */
  readonly step: number;
  /** Factor on the gradient (global-norm clipping). */
  readonly gradScale: number;
}

/**
 * Optional kernels. Each has a composed twin of primitives in lib/ops, which is its oracle; shapes are documented there.
 * Statistics (rstd, lse, logprobs, entropy) are f32, or f64 where the inputs are; so is what is called wide. Where `into` (wide)
 * is given, the result is added there in place and its storage returned.
 */
export interface FusedKernels {
  rmsNorm(x: ArrayRef, weight: ArrayRef, eps: number): { y: Storage; rstd: Storage };
  /** `residual`, of x's shape, is added to dx: the gradient of the stream that goes past the norm. */
  rmsNormBackward(
    dy: ArrayRef,
    x: ArrayRef,
    weight: ArrayRef,
    rstd: ArrayRef,
    residual?: ArrayRef,
  ): { dx: Storage; dWeight: Storage };
  qkNorm(x: ArrayRef, q: ArrayRef, k: ArrayRef, layout: HeadLayout, eps: number): { y: Storage; rstd: Storage };
  qkNormBackward(
    dy: ArrayRef,
    x: ArrayRef,
    q: ArrayRef,
    k: ArrayRef,
    rstd: ArrayRef,
    layout: HeadLayout,
  ): { dx: Storage; dq: Storage; dk: Storage };
  /** `direction` −1 rotates back, which is the gradient. */
  rope(x: ArrayRef, positions: ArrayRef, rotation: Rotation, direction: 1 | -1): Storage;
  swiglu(x: ArrayRef): Storage;
  swigluBackward(dy: ArrayRef, x: ArrayRef): Storage;
  attention(x: ArrayRef, offsets: Int32Array, layout: HeadLayout): { y: Storage; lse: Storage };
  attentionBackward(
    dy: ArrayRef,
    x: ArrayRef,
    y: ArrayRef,
    lse: ArrayRef,
    offsets: Int32Array,
    layout: HeadLayout,
  ): Storage;
  pagedAttention(x: ArrayRef, cache: ArrayRef, context: PagedContext, layout: HeadLayout): Storage;
  /** Whether a model of this element type and layout can decode in slots. */
  takesSlots(dtype: DType, layout: HeadLayout): boolean;
  /** Lays out the attention of a step, into `work`; once before its layers. */
  planSlots(slots: PagedSlots, layout: HeadLayout): void;
  /** `pagedAttention` of one new token in every slot; rows of empty slots are undefined. */
  slotAttention(x: ArrayRef, cache: ArrayRef, slots: PagedSlots, layout: HeadLayout): Storage;
  /** *In place*: every slot takes the token it drew (i32 [slots]) or ends. */
  advanceSlots(drawn: ArrayRef, slots: PagedSlots, state: SlotState): void;
  /** Draws a token for each row of logits [rows, vocabulary] (f32): i32 [2, rows], the ids and the bits of their log-probabilities. */
  sampleLogits(logits: ArrayRef, draws: Draws): Storage;
  /** Undefined where it has nothing better for this shape than the composed form. */
  normSwiglu(x: ArrayRef, norm: ArrayRef, eps: number, weight: ArrayRef): Storage | undefined;
  /** *In place* on the cache. Undefined where it has nothing better for this shape than the composed form. */
  qkvToCache(
    x: ArrayRef,
    weights: { readonly norm: ArrayRef; readonly eps: number; readonly weight: ArrayRef; readonly bias?: ArrayRef },
    placement: { readonly positions: ArrayRef; readonly rows: ArrayRef },
    rotation: Rotation,
    cache: ArrayRef,
  ): Storage | undefined;
  /** The last step of `qkvToCache`, *in place* on the cache: x has queries, keys and values; of the result the queries count. */
  ropeToCache(
    x: ArrayRef,
    placement: { readonly positions: ArrayRef; readonly rows: ArrayRef },
    rotation: Rotation,
    cache: ArrayRef,
  ): Storage;
  /**
   * Records what `enqueue` enqueues, instead of running it. The arrays that it reads, writes or leaves behind must live as long
   * as the recording; it may not copy to or from the host. Run the same work once before.
   */
  record(enqueue: () => void): Recording;
  linearLogprob(
    hidden: ArrayRef,
    weight: ArrayRef,
    targets: ArrayRef,
    temperature: number,
  ): { logprobs: Storage; entropy: Storage; lse: Storage };
  /** `into` is given where the backend has `matmulWide`; dWeight is wide there, and of weight's dtype elsewhere. */
  linearLogprobBackward(
    dLogprobs: ArrayRef,
    dEntropy: ArrayRef,
    hidden: ArrayRef,
    weight: ArrayRef,
    targets: ArrayRef,
    entropy: ArrayRef,
    lse: ArrayRef,
    temperature: number,
    into?: ArrayRef,
  ): { dHidden: Storage; dWeight: Storage };
  /** A product that is not rounded to the operands' dtype: the gradient of a weight. */
  matmulWide(a: ArrayRef, b: ArrayRef, spec: MatmulSpec, into?: ArrayRef): Storage;
  /** `scatterRows` without rounding to x's dtype: the gradient of an embedding. */
  scatterRowsWide(x: ArrayRef, index: ArrayRef, rows: number, into?: ArrayRef): Storage;
  /** *In place* on master, m and v (all wide), and on param where it is not the master itself. */
  adamw(param: ArrayRef, master: ArrayRef, grad: ArrayRef, m: ArrayRef, v: ArrayRef, step: AdamwStep): void;
  /** `adamw` for all parameters of an optimizer at once. */
  adamwMany(slots: readonly AdamwSlot[], step: AdamwStep): void;
  /** [] wide: the sum of the squares of all elements of all arrays, in a fixed order. */
  sumSquares(arrays: readonly ArrayRef[]): Storage;
}
