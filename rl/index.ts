/** Reinforcement learning in conversations, and everything below it: the package's public API. */
export * from "../lib/index.js";
export * from "../models/index.js";
export { type AlignmentMethod, creditAlignment } from "./alignment.js";
export {
  type Checkpoint,
  openCheckpoint,
  openOptimizers,
  type RunModels,
  type RunState,
  saveCheckpoint,
} from "./checkpoint.js";
export { loadSftConfig, loadTrainConfig, type SftConfig, type TrainConfig } from "./config.js";
export { type CriticModel, freshValueHead } from "./critic.js";
export { type TokenizedDialogue, tokenizeDialogue } from "./dialogue.js";
export type { Environment, Episode, UserReply } from "./environment.js";
export { medicalEnvironment } from "./environments/medical.js";
export { quickstartEnvironment } from "./environments/quickstart/game.js";
export { ceilings } from "./environments/quickstart/scripts.js";
export { quickstartTokenizer } from "./environments/quickstart/tokenizer.js";
export { smalltalkEnvironment, smalltalkTokenizer } from "./environments/smalltalk/game.js";
export { smalltalkCeilings } from "./environments/smalltalk/scripts.js";
export { type Evaluation, evaluate, probeConversations } from "./evaluate.js";
export { type ItpoModels, type ItpoTask, itpoStep } from "./itpo.js";
export { forwardRows, Learner, type LearnerOptions, type LearnerRow, type StepReport } from "./learner.js";
export { type ExtractOptions, extractJson, type Json, ReplyError } from "./llm/extractJson.js";
export * from "./objective/index.js";
export type { PrmScores } from "./rewardModel.js";
export { accuracyOf, exactAccuracy, finalAnswer } from "./rewards/accuracy.js";
export { type BleuOptions, bleu, CHARACTER_BLEU, withoutCompletionPrefix } from "./rewards/bleu.js";
export { type Leak, type LeakOptions, leakOf } from "./rewards/leak.js";
export { codeOf, runTests, type TestOutcome } from "./rewards/passRate.js";
export {
  openSandbox,
  type Sandbox,
  type SandboxLimits,
  type SandboxOptions,
  type SandboxResult,
} from "./rewards/sandbox.js";
export { type Rollout, type RolloutItem, type RolloutOptions, rollout } from "./rollout.js";
export { type RunOptions, type RunResult, train } from "./run.js";
export { Conversation, type ConversationOptions } from "./serve/conversation.js";
export { type DrawRequest, Engine, type EngineOptions } from "./serve/engine.js";
export type { Patience } from "./serve/limits.js";
export type { Sampling } from "./serve/sampling.js";
export { type RunningServer, type ServerOptions, startServer } from "./serve/server.js";
export { fineTune, type SftStep, shuffledBatches } from "./sft.js";
export { trainSft } from "./sftRun.js";
export { Trainer, type TrainingStep } from "./trainer.js";
export type { StopReason, Trajectory, Turn } from "./trajectory.js";
