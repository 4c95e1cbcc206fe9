import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ExecutionContext } from "ava";
import { type Backend, createCpu } from "../../lib/index.js";
import { type ChatRenderer, chatRenderer, type Message, type Qwen, type Tokenizer } from "../../models/index.js";
import { loadTrainConfig, type TrainConfig } from "../../rl/config.js";
import type { Environment, Episode, UserReply } from "../../rl/environment.js";
import { quickstartTokenizer } from "../../rl/environments/quickstart/tokenizer.js";
import { tinyConfig, tinyModel } from "../models/tiny.js";
import { temporaryFolder } from "../temporary.js";

/** What tests of conversations need: a tiny model with fresh weights and the quickstart game's tokenizer. */
export interface Talker {
  readonly policy: Qwen;
  readonly tokenizer: Tokenizer;
  readonly chat: ChatRenderer;
}

export function talker({ seed = 1, backend = createCpu({ poison: true }) as Backend, maxPositions = 96 } = {}): Talker {
  const tokenizer = quickstartTokenizer();
  const chat = chatRenderer(tokenizer);
  const config = { ...tinyConfig, layers: 1, vocabSize: tokenizer.vocabSize, eosTokenIds: chat.stopIds, maxPositions };
  return { policy: tinyModel({ config, seed, backend }), tokenizer, chat };
}

/** What a scripted user does; every part has a harmless default. */
export interface Script {
  readonly opening?: (task: number) => readonly Message[];
  /** The user's answer to assistant turn `turn`, from 0. */
  readonly reply?: (turn: number, task: number, sample: number) => UserReply | Promise<UserReply>;
  readonly score?: (messages: readonly Message[], task: number, sample: number) => ReturnType<Episode["score"]>;
  readonly begin?: (task: number, sample: number) => void;
}

/** An environment whose users follow a script. */
export function scripted({ opening, reply, score, begin }: Script = {}): Environment {
  return {
    name: "scripted",
    size: 1000,
    heldOutSize: 1000,
    begin(task, { sample }) {
      begin?.(task, sample);
      return {
        opening: opening?.(task) ?? [{ role: "user", content: "help with paint" }],
        reply: (messages) =>
          reply?.(countTurns(messages) - 1, task, sample) ?? { kind: "message", content: `maybe red` },
        score: (messages) => score?.(messages, task, sample) ?? { accuracy: (task + sample) % 2 },
      };
    },
  };
}

function countTurns(messages: readonly Message[]): number {
  return messages.filter(({ role }) => role === "assistant").length;
}

/** A training configuration in which a step takes milliseconds. */
const tinyRecipe = `
name: tiny
device: cpu
environment: { name: quickstart, heldOutGames: 8 }
model:
  scratch: { layers: 1, hiddenSize: 16, heads: 2, intermediateSize: 24, maxPositions: 64, ropeTheta: 1000, initializerRange: 0.1, embeddingRange: 0.3 }
steps: 4
rollout: { prompts: 3, samples: 3, maxTurns: 3, maxTurnTokens: 5, maxTokens: 48, maxFailures: 1 }
prm: { lr: 2.0e-3, beta: 0.5, miniBatch: 4 }
policy: { lr: 1.0e-3, miniBatch: 5, kl: 0.03 }
critic: { miniBatch: 9 }
evaluate: { every: 2, conversations: 8, probe: 8 }
checkpoint: { every: 0 }
`;

/** Writes the recipe to a file of its own, for `loadTrainConfig` and the command line. */
export function tinyRecipeFile(t: ExecutionContext): string {
  const path = join(temporaryFolder(t), "tiny.yaml");
  writeFileSync(path, tinyRecipe);
  return path;
}

export function tinyTraining(t: ExecutionContext, ...overrides: readonly string[]): Promise<TrainConfig> {
  return loadTrainConfig(tinyRecipeFile(t), overrides);
}

/** The command line as it was compiled beside these tests. */
export const cli = fileURLToPath(new URL("../../rl/cli/main.js", import.meta.url));
