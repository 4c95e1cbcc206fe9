import "./methods.js";

export { Arena, arena, keep, outsideArenas } from "./arena.js";
export { backward, checkpoint, noGrad } from "./autograd.js";
export type {
  Backend,
  Draws,
  HeadLayout,
  PagedContext,
  PagedSlots,
  Recording,
  Rotation,
  SlotState,
} from "./backend/backend.js";
export { findBlas } from "./backend/cpu/blas.js";
export { type CpuOptions, createCpu } from "./backend/cpu/index.js";
export { openDevice } from "./backend/index.js";
export type { DType, TypedArray } from "./dtype.js";
export { InputError } from "./errors.js";
export { makeFolders, writeTogether, writeWhole } from "./files.js";
export { largestLogits, logprobOf, type RowStatistics, rowStatistics } from "./logits.js";
export { attention } from "./ops/attention.js";
export { concat } from "./ops/concat.js";
export { embedding } from "./ops/embedding.js";
export { linear, linearWide } from "./ops/linear.js";
export { linearLogprob } from "./ops/linearLogprob.js";
export { normSwiglu } from "./ops/normSwiglu.js";
export { pagedAttention } from "./ops/pagedAttention.js";
export { qkNorm } from "./ops/qkNorm.js";
export { type Placement, type QkvWeights, qkvToCache } from "./ops/qkvToCache.js";
export { rmsNorm } from "./ops/rmsNorm.js";
export { rope } from "./ops/rope.js";
export { setRows } from "./ops/rows.js";
export { advanceSlots, planSlots, readDrawn, sampleLogits, slotAttention } from "./ops/slots.js";
export { broadcastTo } from "./ops/sum.js";
export { swiglu } from "./ops/swiglu.js";
export { where } from "./ops/where.js";
export { AdamW, type AdamWOptions, type OptimizerState } from "./optim/adamw.js";
export { clipScale, gradNorm } from "./optim/clip.js";
export { type ParameterSet, trainable, zeroGrad } from "./optim/parameters.js";
export { type ScheduleKind, type ScheduleOptions, schedule } from "./optim/schedule.js";
export {
  type Key,
  type NoiseSite,
  noiseKey,
  philox,
  type RandomStream,
  randomStream,
  sampleGumbel,
  seedKey,
} from "./random.js";
export * from "./safetensors.js";
export { checkSampling, lowestKept, type Sampling } from "./sampling.js";
export type { Shape } from "./shape.js";
export { fromHost, full, ones, Tensor, tensor, zeros } from "./tensor.js";
