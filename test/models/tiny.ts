import { type Backend, createCpu, type DType, type ParameterSet } from "../../lib/index.js";
import { initializeParameters, Qwen, type QwenConfig } from "../../models/index.js";

/** Two layers, two query heads to one key head, no tied embedding. */
export const tinyConfig: QwenConfig = {
  architecture: "qwen3",
  vocabSize: 61,
  hiddenSize: 16,
  intermediateSize: 24,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 8,
  maxPositions: 64,
  rmsNormEps: 1e-6,
  ropeTheta: 1000,
  tieWordEmbeddings: false,
  qkvBias: false,
  qkNorm: true,
  eosTokenIds: [2],
  initializerRange: 0.3,
  dtype: "float32",
};

export const tinyQwen2: QwenConfig = {
  ...tinyConfig,
  architecture: "qwen2",
  qkvBias: true,
  qkNorm: false,
  tieWordEmbeddings: true,
};

/** A model with fresh weights, on a backend of its own whose freed memory is NaN. */
export function tinyModel({
  config = tinyConfig,
  seed = 1,
  backend = createCpu({ poison: true }) as Backend,
  dtype = "f32" as DType,
} = {}): Qwen {
  return new Qwen(config, initializeParameters(config, { backend, seed, dtype }));
}

/** All values of a parameter set, in order. */
export async function valuesOf(parameters: ParameterSet): Promise<number[][]> {
  return Promise.all([...parameters.values()].map(async (parameter) => [...(await parameter.data())]));
}
