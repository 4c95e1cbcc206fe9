import { readMedicalCases, splitByKey } from "../data/index.js";
import { type Backend, InputError } from "../lib/index.js";
import {
  type ChatRenderer,
  chatRenderer,
  initializeParameters,
  loadQwen,
  loadTokenizer,
  Qwen,
  type QwenConfig,
  type Tokenizer,
} from "../models/index.js";
import type { ScratchModel, SftConfig, TrainConfig } from "./config.js";
import type { Environment } from "./environment.js";
import { medicalEnvironment } from "./environments/medical.js";
import { quickstartEnvironment } from "./environments/quickstart/game.js";
import { type Ceilings, ceilings, quickstartScript } from "./environments/quickstart/scripts.js";
import { quickstartTokenizer } from "./environments/quickstart/tokenizer.js";
import { openSimulation } from "./environments/simulated/open.js";
import { smalltalkEnvironment, smalltalkTokenizer } from "./environments/smalltalk/game.js";
import { smalltalkCeilings, smalltalkScript } from "./environments/smalltalk/scripts.js";
import type { ScriptWriter } from "./environments/warmup.js";
import { checkOutcome } from "./outcome.js";
import type { Level } from "./report/chart.js";

/** A model with what turns text into its tokens. */
export interface Policy {
  readonly model: Qwen;
  readonly tokenizer: Tokenizer;
  readonly chat: ChatRenderer;
}

/** An environment, and what goes with it. */
export interface Setting {
  readonly environment: Environment;
  /** The environment's own tokenizer, for models from scratch. */
  readonly tokenizer?: Tokenizer;
  /** What a warm-up trains on, where the environment has it. */
  readonly script?: ScriptWriter;
  /** Outcomes to compare with, where the environment knows them. */
  readonly ceilings: readonly Level[];
  /** Keeps what simulated users and judges reply in this folder, and does not ask for it again. */
  readonly keepReplies?: (folder: string) => void;
  /** Gives back what the environment holds, the backend's memory included. */
  readonly close?: () => void;
}

type EnvironmentConfig = TrainConfig["environment"];
type SettingConfig = Pick<TrainConfig, "environment" | "outcome" | "credit">;

const settings: {
  [N in EnvironmentConfig["name"]]: (
    config: Extract<EnvironmentConfig, { name: N }>,
    run: SettingConfig,
    backend: Backend,
  ) => Promise<Setting>;
} = {
  async quickstart({ heldOutGames }) {
    return {
      environment: quickstartEnvironment({ heldOutGames }),
      tokenizer: quickstartTokenizer(),
      script: quickstartScript,
      ceilings: levels(ceilings()),
    };
  },
  async smalltalk({ heldOutGames }) {
    return {
      environment: smalltalkEnvironment({ heldOutGames }),
      tokenizer: smalltalkTokenizer(),
      script: smalltalkScript,
      ceilings: levels(smalltalkCeilings()),
    };
  },
  async medical({ train: path, heldOutShare, systemPrompt }) {
    const { train, heldOut } = await readMedicalSplit(path, heldOutShare);
    return { environment: medicalEnvironment({ train, heldOut, systemPrompt }), ceilings: [] };
  },
  async simulated(config, run, backend) {
    return { ...(await openSimulation(config, run, backend)), ceilings: [] };
  },
};

function levels({ answerAtOnce, fixedScript, oracle }: Ceilings): Level[] {
  return [
    { label: "answers at once", value: answerAtOnce },
    { label: "best fixed script", value: fixedScript },
    { label: "oracle", value: oracle },
  ];
}

/**
 * Builds the environment that a config names; its models, where it has any in this process, are on the backend.
 * @throws InputError where a file or a model will not do, or the config needs a metric that the environment has not.
 */
export async function openSetting(config: SettingConfig, backend: Backend): Promise<Setting> {
  const open = settings[config.environment.name] as (
    config: EnvironmentConfig,
    run: SettingConfig,
    backend: Backend,
  ) => Promise<Setting>;
  const setting = await open(config.environment, config, backend);
  checkOutcome(setting.environment, config);
  return setting;
}

/** The cases of an MTMedDialog file, split by case; the same split wherever the same file and share are given. */
export async function readMedicalSplit(path: string, heldOutShare: number) {
  const { cases, counts } = await readMedicalCases(path);
  try {
    return { ...splitByKey(cases, ({ key }) => key, { heldOut: heldOutShare }), counts };
  } catch (error) {
    throw error instanceof InputError ? new InputError(`${path}: ${error.message}`) : error;
  }
}

/** Loads the model that a config names, or makes one with fresh weights. */
export async function openPolicy(
  config: Pick<TrainConfig | SftConfig, "model" | "seed" | "dtype">,
  backend: Backend,
  ownTokenizer?: Tokenizer,
): Promise<Policy> {
  const { dtype } = config;
  if (!backend.dtypes.has(dtype)) throw new InputError(`dtype ${dtype}: ${backend.name} does not hold it; use f32`);
  if ("path" in config.model) {
    const { path } = config.model;
    const tokenizer = await loadTokenizer(path);
    const model = await loadQwen(path, { backend, dtype });
    const { vocabSize } = model.config;
    if (tokenizer.vocabSize > vocabSize) {
      throw new InputError(
        `${path}: its tokenizer has ${tokenizer.vocabSize} ids, its model ${vocabSize}; mend the folder`,
      );
    }
    return { model, tokenizer, chat: chatRenderer(tokenizer) };
  }
  const { scratch } = config.model;
  const tokenizer = scratch.tokenizer ? await loadTokenizer(scratch.tokenizer) : ownTokenizer;
  if (!tokenizer) {
    throw new InputError("model.scratch.tokenizer is missing; name a folder with a tokenizer for the fresh model");
  }
  const chat = chatRenderer(tokenizer);
  const architecture = scratchConfig(scratch, tokenizer, chat);
  const model = new Qwen(
    architecture,
    initializeParameters(architecture, { backend, dtype, seed: config.seed, embeddingRange: scratch.embeddingRange }),
  );
  return { model, tokenizer, chat };
}

function scratchConfig(scratch: ScratchModel, tokenizer: Tokenizer, chat: ChatRenderer): QwenConfig {
  const { heads, kvHeads = heads, hiddenSize, headDim = hiddenSize / heads } = scratch;
  if (heads % kvHeads !== 0 || !Number.isInteger(headDim) || headDim % 2 !== 0) {
    throw new InputError(
      `model.scratch: ${heads} heads, ${kvHeads} kvHeads and headDim ${headDim} do not fit; ` +
        "heads must divide hiddenSize and be a multiple of kvHeads, headDim must be even",
    );
  }
  const padTokenId = tokenizer.specialTokens.get(tokenizer.config.padToken ?? "");
  return {
    architecture: scratch.architecture,
    vocabSize: tokenizer.vocabSize,
    hiddenSize,
    intermediateSize: scratch.intermediateSize,
    layers: scratch.layers,
    heads,
    kvHeads,
    headDim,
    maxPositions: scratch.maxPositions,
    rmsNormEps: 1e-6,
    ropeTheta: scratch.ropeTheta,
    tieWordEmbeddings: scratch.tieWordEmbeddings,
    qkvBias: scratch.architecture === "qwen2",
    qkNorm: scratch.architecture === "qwen3",
    eosTokenIds: [...chat.stopIds],
    ...(padTokenId !== undefined && { padTokenId }),
    initializerRange: scratch.initializerRange,
    dtype: "float32",
  };
}
