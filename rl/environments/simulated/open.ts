import { join } from "node:path";
import { readTasks, type Task } from "../../../data/tasks.js";
import { type Backend, InputError } from "../../../lib/index.js";
import { loadQwen, loadTokenizer } from "../../../models/index.js";
import type { TrainConfig } from "../../config.js";
import type { Environment } from "../../environment.js";
import type { ChatModel } from "../../llm/chatModel.js";
import { localModel } from "../../llm/localModel.js";
import { remoteModel } from "../../llm/remoteModel.js";
import { openReplies, REPLIES_FILE, type Replies } from "../../llm/replies.js";
import { createSpeaker, type Speaker } from "../../llm/speaker.js";
import { testsOf } from "../../rewards/codeTests.js";
import { TURN_SCORES } from "../../rewards/judges/turnScores.js";
import { openSandbox } from "../../rewards/sandbox.js";
import { Engine } from "../../serve/engine.js";
import type { CallerConfig, SimulatedConfig } from "./config.js";
import { simulatedEnvironment } from "./environment.js";

/** Conversations with simulated users, and what holds resources for them. */
export interface OpenSimulation {
  readonly environment: Environment;
  /** From now on replies are kept in this folder, and not asked for again. */
  keepReplies(folder: string): void;
  /** Ends models in this process and closes files. */
  close(): void;
}

/** The metrics that a run needs: those of its outcome, those it reports, and a judge's scores of turns. */
export function neededMetrics(
  { report }: Pick<SimulatedConfig, "report">,
  { outcome, credit }: Pick<TrainConfig, "outcome" | "credit">,
): string[] {
  return [...Object.keys(outcome.metrics), ...report, ...(credit.method === "judge" ? [TURN_SCORES] : [])];
}

/** Reads the tasks and makes the models ready. @throws InputError where a file or a model folder will not do. */
export async function openSimulation(
  environment: SimulatedConfig,
  run: Pick<TrainConfig, "outcome" | "credit">,
  backend: Backend,
): Promise<OpenSimulation> {
  const metrics = neededMetrics(environment, run);
  const needsTests = metrics.includes("pass_rate");
  const [train, heldOut] = [
    await someTasks(environment.train, needsTests),
    await someTasks(environment.heldOut, needsTests),
  ];
  const { server, local } = environment.user;
  const { judge } = environment;
  const engines = new Map<string, Engine>();
  const speakers = {
    user: await openSpeaker("user", environment.user, engines, backend),
    judge: await openSpeaker(
      "judge",
      judge.server || judge.local ? judge : { ...judge, server, local },
      engines,
      backend,
    ),
  };
  const sandbox = needsTests ? await openSandbox(environment) : undefined;
  let replies: Replies | undefined;
  return {
    environment: simulatedEnvironment({
      ...{ train, heldOut, metrics, sandbox, ...speakers },
      persona: environment.user.persona,
    }),
    keepReplies(folder) {
      replies = openReplies(join(folder, REPLIES_FILE));
      for (const speaker of Object.values(speakers)) speaker.remember(replies);
    },
    close() {
      replies?.close();
      for (const engine of engines.values()) engine.dispose();
    },
  };
}

async function someTasks(path: string, needsTests: boolean): Promise<Task[]> {
  const tasks = await readTasks(path);
  if (tasks.length === 0) throw new InputError(`${path}: holds no task; prepare the data anew`);
  const bare = needsTests ? tasks.findIndex(({ info }) => testsOf(info) === undefined) : -1;
  if (bare >= 0) {
    throw new InputError(
      `${path}: row ${bare} has no single_turn_metadata.test for pass_rate to run; take bigcodebench`,
    );
  }
  return tasks;
}

async function openSpeaker(
  role: string,
  config: CallerConfig,
  engines: Map<string, Engine>,
  backend: Backend,
): Promise<Speaker> {
  const { temperature, topP, maxTokens } = config;
  return createSpeaker({
    ...config,
    role,
    model: await openModel(role, config, engines, backend),
    sampling: { temperature, topP, maxTokens },
  });
}

async function openModel(
  role: string,
  { server, local }: CallerConfig,
  engines: Map<string, Engine>,
  backend: Backend,
): Promise<ChatModel> {
  if (server) return remoteModel({ ...server, apiKey: process.env[server.apiKeyEnv] });
  if (!local) throw new InputError(`environment.${role} names no model; give server or local`);
  const engine = engines.get(local.path) ?? (await openEngine(local, backend));
  engines.set(local.path, engine);
  return localModel(engine, local.path);
}

async function openEngine(
  { path, dtype, context, maxBatch, cacheGiB }: NonNullable<CallerConfig["local"]>,
  backend: Backend,
): Promise<Engine> {
  if (!backend.dtypes.has(dtype)) throw new InputError(`${path}: ${backend.name} does not hold ${dtype}; use f32`);
  const tokenizer = await loadTokenizer(path);
  const model = await loadQwen(path, { backend, dtype });
  return new Engine({ model, tokenizer, context, maxBatch, cacheGiB });
}
