export { type PackedBatch, pack } from "./batch.js";
export { type ChatOptions, type ChatRenderer, chatRenderer } from "./chat.js";
export { CHATML } from "./chatTemplate.js";
export { parseConfig, type QwenConfig, toConfigJson } from "./config.js";
export { type GenerateOptions, generate } from "./generate.js";
export { type CachedSequence, type CacheStep, KvCache } from "./kvCache.js";
export type { Message, Role } from "./message.js";
export { type CacheSize, openCache } from "./openCache.js";
export {
  cloneParameters,
  countParameters,
  disposeParameters,
  initializeParameters,
  type ParameterSpec,
  parameterSpecs,
} from "./parameters.js";
export { Qwen } from "./qwen.js";
export type { Completion, LikelyToken, PrefillRequest, SampleRequest } from "./request.js";
export { type DrawsOn, Sampler, type SamplerOptions } from "./sampler.js";
export { type Scores, score } from "./score.js";
export { MOST_STOPS, SlotDecoder, type SlotRequest, type SlotStart, type StepResult } from "./slotDecoder.js";
export {
  loadTokenizer,
  type Tokenizer,
  type TokenizerConfig,
  trainBpe,
  wordLevelTokenizer,
} from "./tokenizer/index.js";
export { type TextStream, textStream } from "./tokenizer/textStream.js";
export { huggingFaceViews, type LoadOptions, loadQwen, readConfig, saveQwen } from "./weights.js";
