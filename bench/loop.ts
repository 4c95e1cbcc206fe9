/*
 * The whole loop in one process: conversations whose users and judge are models of this project, and ITPO steps on them.
 * Random weights write no JSON, so what they write is put into the form that was asked for; all else is as in a run:
 * prompts, lengths, calls, batching, and updates of policy and reward model. Prints where the time goes.
 *
 *     npm run bench -- loop [--model tiny|0.5b|1.5b|3b] [--user-model …] [--device cuda|cpu] [--steps 2] [--prompts 16]
 *         [--samples 8] [--turns 4] [--turn-tokens 128] [--reply-tokens 48] [--judge-tokens 64] [--http]
 *
 * `--http` puts the project's own server and the official client between the loop and the user's model.
 */
import { createHash } from "node:crypto";
import { chatRenderer, loadTokenizer, Qwen, type QwenConfig, type Tokenizer, trainBpe } from "../models/index.js";
import { loadTrainConfig } from "../rl/config.js";
import type { Environment } from "../rl/environment.js";
import { simulatedEnvironment } from "../rl/environments/simulated/environment.js";
import type { ChatModel } from "../rl/llm/chatModel.js";
import { localModel } from "../rl/llm/localModel.js";
import { remoteModel } from "../rl/llm/remoteModel.js";
import { createSpeaker } from "../rl/llm/speaker.js";
import { Engine } from "../rl/serve/engine.js";
import { startServer } from "../rl/serve/server.js";
import { Trainer } from "../rl/trainer.js";
import { qwenDirectory } from "../test/models/tokenizer/qwenFiles.js";
import { models, openBench, randomParameters } from "./gpu.js";

const numbers = {
  ...{ steps: 2, prompts: 16, samples: 8, turns: 4 },
  ...{ "turn-tokens": 128, "reply-tokens": 48, "judge-tokens": 64 },
};
const names = Object.keys(numbers).map((name) => `${name}=`);
const { backend, flags, ...bench } = await openBench({ tokens: 0, model: "tiny" }, [...names, "user-model=", "http"]);
const flag = (name: keyof typeof numbers) => Number(flags[name] ?? numbers[name]);
const userModel = String(flags["user-model"] ?? bench.model);
const dtype = bench.cuda ? "bf16" : "f32";
const [prompts, samples, turns] = [flag("prompts"), flag("samples"), flag("turns")];
const rows = prompts * samples;

/** The tiny model has few words; the others Qwen's. */
const tokenizer: Tokenizer =
  bench.model === "tiny"
    ? await trainBpe(["the quick brown fox"], {
        vocabSize: 280,
        specialTokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        config: { eosToken: "<|im_end|>" },
      })
    : await loadTokenizer(qwenDirectory("qwen2_5"));

function open(name: string, { trained = false } = {}): Qwen {
  const vocabSize = bench.model === "tiny" ? tokenizer.vocabSize : models[name].vocabSize;
  const shape: QwenConfig = { ...models[name], vocabSize };
  const parameters = randomParameters(backend, shape, dtype);
  for (const parameter of parameters.values()) parameter.requiresGrad = trained;
  return new Qwen(shape, parameters);
}

/** Adds up the time in which at least one piece of work of a kind is under way. */
class WorkClock {
  seconds = 0;
  #pieces = 0;
  #since = 0;

  begin(): void {
    if (this.#pieces++ === 0) this.#since = performance.now();
  }
  end(): void {
    if (--this.#pieces === 0) this.seconds += (performance.now() - this.#since) / 1000;
  }
  async during<T>(work: () => T | Promise<T>): Promise<T> {
    this.begin();
    try {
      return await work();
    } finally {
      this.end();
    }
  }
}

const clocks = { policy: new WorkClock(), user: new WorkClock(), judge: new WorkClock() };

/** A model whose replies get the form that they lack. */
function inForm(model: ChatModel, clock: WorkClock, form: (text: string) => object): ChatModel {
  return {
    name: model.name,
    async complete(call, signal) {
      const reply = await clock.during(() => model.complete(call, signal));
      return { ...reply, text: JSON.stringify(form(reply.text)) };
    },
  };
}

/** An environment that tells when the policy has the floor. */
function watched(environment: Environment): Environment {
  return {
    ...environment,
    begin(...args) {
      const episode = environment.begin(...args);
      clocks.policy.begin();
      return {
        ...episode,
        async reply(messages) {
          clocks.policy.end();
          const reply = await episode.reply(messages);
          if (reply.kind === "message") clocks.policy.begin();
          return reply;
        },
        async score(messages) {
          if (messages.at(-1)?.role === "assistant") clocks.policy.end();
          return episode.score(messages);
        },
      };
    },
  };
}

const engine = new Engine({
  model: open(userModel),
  tokenizer,
  context: 8192,
  maxBatch: rows,
  cacheGiB: 8,
});
const server = flags.http ? await startServer({ engine, model: "user", port: 0 }) : undefined;
const served = server ? remoteModel({ url: `${server.url}/v1`, model: "user" }) : localModel(engine, "user");
const limits = { concurrency: rows, timeout: 600, deadline: 600, retries: 0 };
const tasks = Array.from({ length: 64 }, (_, i) => ({
  prompt: [
    { role: "system" as const, content: "You help people with their problems, and ask before you assume. ".repeat(8) },
    { role: "user" as const, content: `Problem ${i}: can you help me find a number?` },
  ],
  groundTruth: `${i}`,
  singleTurnPrompt: `Find the number that is ${i}. `.repeat(20),
  taskDesc: "solving math problems",
}));
const judgeForm = (text: string) => ({ thought: text, accuracy: createHash("md5").update(text).digest()[0] % 2 });
const environment = watched(
  simulatedEnvironment({
    train: tasks.slice(0, 48),
    heldOut: tasks.slice(48),
    metrics: ["accuracy"],
    user: createSpeaker({
      ...limits,
      role: "user",
      model: inForm(served, clocks.user, (text) => ({ current_answer: "", thought: "", response: `${text.trim()}.` })),
      sampling: { temperature: 1, maxTokens: flag("reply-tokens") },
    }),
    judge: createSpeaker({
      ...limits,
      role: "judge",
      model: inForm(served, clocks.judge, judgeForm),
      sampling: { temperature: 1, maxTokens: flag("judge-tokens") },
    }),
  }),
);

const config = await loadTrainConfig("math-norm-itpo-rloo", [
  ...[`dtype=${dtype}`, `steps=${flag("steps")}`, "rollout.maxFailures=0"],
  ...[`rollout.prompts=${prompts}`, `rollout.samples=${samples}`, `rollout.maxTurns=${turns}`],
  ...[`rollout.maxTurnTokens=${flag("turn-tokens")}`, "rollout.maxTokens=5120"],
  ...[`policy.miniBatch=${Math.min(32, rows)}`, `prm.miniBatch=${Math.min(4, rows)}`],
]);
const trainer = new Trainer(config, {
  policy: open(bench.model, { trained: true }),
  chat: chatRenderer(tokenizer),
  environment,
});
console.log(
  `policy Qwen2.5-${bench.model} shape, user and judge ${userModel}${server ? " behind HTTP" : " in process"}, ${dtype}, ` +
    `${prompts} × ${samples} conversations of ${turns} turns of ${flag("turn-tokens")} tokens`,
);

for (let step = 1; step <= flag("steps"); step++) {
  const drawnBefore = engine.drawn;
  for (const clock of Object.values(clocks)) clock.seconds = 0;
  const started = performance.now();
  const { metrics, trajectories } = await trainer.step(step);
  const seconds = (performance.now() - started) / 1000;
  const share = (value: number) =>
    `${value.toFixed(2).padStart(8)} s ${((100 * value) / seconds).toFixed(0).padStart(4)} %`;
  const tokens = trajectories.reduce((sum, each) => sum + each.tokens.length, 0);
  console.log(
    `step ${step}: ${seconds.toFixed(2)} s, ${tokens.toLocaleString("en-US")} tokens, outcome ${metrics["outcome/mean"].toFixed(2)}`,
  );
  for (const part of ["rollout", "reference", "prm", "policy"])
    console.log(`  ${part.padEnd(24)}${share(metrics[`time/${part}`])}`);
  console.log(`  of the rollout, at least one at work (they overlap):`);
  for (const [name, clock] of Object.entries(clocks)) console.log(`    ${name.padEnd(22)}${share(clock.seconds)}`);
  const count = (value: number) => value.toLocaleString("en-US");
  const read = (metrics["user/prompt_tokens"] ?? 0) + (metrics["judge/prompt_tokens"] ?? 0);
  const calls = ["user", "judge"].map((role) => {
    const [mean, p95] = ["mean", "p95"].map((name) => metrics[`${role}/latency_${name}`].toFixed(2));
    return `${metrics[`${role}/calls`]} ${role} calls of ${mean} s (p95 ${p95})`;
  });
  console.log(
    `  policy drew ${count(metrics["rollout/tokens"])} tokens, user and judge ${count(engine.drawn - drawnBefore)} ` +
      `after ${count(read)} of prompts; ${calls.join(", ")}`,
  );
}
await server?.close(0);
engine.dispose();
backend.close();
