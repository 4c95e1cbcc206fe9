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
export {
  type SimulatedOptions,
  type SimulatedTask,
  simulatedEnvironment,
} from "./environments/simulated/environment.js";
export { END_SIGNAL, type Persona } from "./environments/simulated/userPrompt.js";
export { smalltalkEnvironment, smalltalkTokenizer } from "./environments/smalltalk/game.js";
export { smalltalkCeilings } from "./environments/smalltalk/scripts.js";
export { type Evaluation, evaluate, probeConversations } from "./evaluate.js";
export { type Comparison, compareEvaluations, type MetricComparison } from "./evaluation/compare.js";
export { type EvaluationRecord, readEvaluation } from "./evaluation/record.js";
export { type EvaluationOptions, runEvaluation } from "./evaluation/run.js";
export { bestOf, type Interval, meanInterval, worstOf } from "./evaluation/statistics.js";
export { type EvaluationSummary, type MetricSummary, summarize, type TaskSamples } from "./evaluation/summary.js";
export { checkFailures } from "./failures.js";
export { type ItpoModels, type ItpoTask, itpoStep } from "./itpo.js";
export { forwardRows, Learner, type LearnerOptions, type LearnerRow, type StepReport } from "./learner.js";
export { CallError, type CallFault } from "./llm/callError.js";
export type { ChatCall, ChatModel, ChatReply, ReplySampling } from "./llm/chatModel.js";
export { type ExtractOptions, extractJson, type Json, ReplyError } from "./llm/extractJson.js";
export { localModel } from "./llm/localModel.js";
export { jsonReply, type Question } from "./llm/question.js";
export { type RemoteOptions, remoteModel } from "./llm/remoteModel.js";
export { openReplies, type Replies } from "./llm/replies.js";
export { createSpeaker, type Speaker, type SpeakerOptions } from "./llm/speaker.js";
export * from "./objective/index.js";
export { recipeNames } from "./recipe.js";
export type { PrmScores } from "./rewardModel.js";
export { accuracyOf, exactAccuracy, finalAnswer } from "./rewards/accuracy.js";
export { type BleuOptions, bleu, CHARACTER_BLEU, withoutCompletionPrefix } from "./rewards/bleu.js";
export { type Leak, type LeakOptions, leakOf } from "./rewards/leak.js";
export { codeOf, runTests, type TestOutcome } from "./rewards/passRate.js";
export { rewardMetrics } from "./rewards/registry.js";
export type { AskJudge, Measure, Reward, Target } from "./rewards/reward.js";
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
