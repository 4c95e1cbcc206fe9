import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { createCpu, InputError } from "../../lib/index.js";
import { loadQwen } from "../../models/index.js";
import { readBestPolicy } from "../../rl/checkpoint.js";
import { findModel } from "../../rl/cli/eval.js";
import { loadTrainConfig, type TrainConfig } from "../../rl/config.js";
import { compareEvaluations } from "../../rl/evaluation/compare.js";
import { readEvaluation } from "../../rl/evaluation/record.js";
import { runEvaluation } from "../../rl/evaluation/run.js";
import { readMetrics } from "../../rl/report/metrics.js";
import { train } from "../../rl/run.js";
import { temporaryFolder } from "../temporary.js";
import { saying, someTasks, tasksFile } from "./environments/simulated/support.js";
import { faultyServer } from "./llm/faultyServer.js";
import { saveBabbler } from "./serve/support.js";

/** Users and judges with an opinion that depends on the conversation, so that groups differ. */
function reply(prompt: string): string {
  const points = prompt.length % 6;
  if (prompt.startsWith("You grade")) return JSON.stringify({ thought: "", accuracy: prompt.length % 2 });
  if (prompt.startsWith("You copy")) return `final_completion: answer ${points}`;
  if (prompt.startsWith("You are an experienced physician")) {
    return JSON.stringify({ thought: "", diagnosis: points, recommendation: 5 - points });
  }
  return saying(points === 0 ? "thanks [[TERMINATE CHAT]]" : `maybe red ${points}`);
}

const tiny = [
  ...["device=cpu", "dtype=f32", "steps=2", "rollout.prompts=2", "rollout.samples=4", "rollout.maxTurns=3"],
  ...[
    "rollout.maxTurnTokens=6",
    "rollout.maxTokens=220",
    "prm.miniBatch=4",
    "policy.miniBatch=4",
    "critic.miniBatch=4",
  ],
  ...["evaluate.every=1", "evaluate.conversations=4", "checkpoint.every=0"],
];

/** A recipe of the paper with everything made small: model, tasks and server. */
async function smallRun(t: ExecutionContext, recipe: string, ...overrides: string[]): Promise<TrainConfig> {
  const folder = temporaryFolder(t);
  await saveBabbler(join(folder, "model"));
  const { url } = await faultyServer(t, { reply });
  return loadTrainConfig(recipe, [
    ...tiny,
    ...[`output=${folder}`, `model.path=${join(folder, "model")}`, `environment.user.server.url=${url}`],
    ...[`environment.train=${tasksFile(t, someTasks(4))}`, `environment.heldOut=${tasksFile(t, someTasks(2, 50))}`],
    ...overrides,
  ]);
}

const quiet = { print: () => {}, stream: { isTTY: false, write: () => true } as unknown as NodeJS.WriteStream };

for (const [recipe, main] of [
  ["math-norm-itpo-rloo", "accuracy"],
  ["document-itpo-grpo", "bleu"],
  ["medical-prime-ppo", "diagnosis"],
] as const) {
  test.serial(`${recipe}: two steps with users and judges behind a server; the best policy is kept`, async (t) => {
    const config = await smallRun(t, recipe);
    const { folder } = await train(config, quiet);
    const rows = readMetrics(folder);
    t.deepEqual(
      rows.map(({ step }) => step),
      [0, 1, 2],
    );
    for (const row of rows) for (const [name, value] of Object.entries(row)) t.not(value, null, `${row.step} ${name}`);
    for (const row of rows.slice(1)) {
      t.true(row["user/calls"]! > 0 && row["judge/calls"]! === 8);
      t.is(row["rollout/failed"], 0);
      for (const name of ["user/latency_mean", "judge/call_seconds_max", `outcome/${main}`, "policy/grad_norm"]) {
        t.is(typeof row[name], "number", name);
      }
      for (const name of ["held_out/user_calls", "held_out/best@2", "held_out/worst@2", "held_out/outcome_low"]) {
        t.is(typeof row[name], "number", name);
      }
    }
    t.true(existsSync(join(folder, "replies.jsonl")));
    const best = (await readBestPolicy(join(folder, "best")))!;
    t.is(best.outcome, Math.max(...rows.slice(1).map((row) => row["held_out/outcome"]!)));
    await t.notThrowsAsync(loadQwen(join(folder, "best", "policy"), { backend: createCpu() }));
  });
}

test.serial(
  "an evaluation says what the named model does, the same for the same seed, and two stand side by side",
  async (t) => {
    const config = await smallRun(t, "math-baseline-rloo");
    const { folder } = await train(config, quiet);
    const lines: string[] = [];
    const evaluate = (overrides: object, checkpoint?: string) =>
      runEvaluation(
        { ...config, ...overrides },
        {
          model: findModel(config, folder, checkpoint),
          samples: 4,
          output: join(folder, "eval"),
          print: (line) => lines.push(line),
        },
      );
    const first = await evaluate({});
    t.like(first, { name: "math-baseline-rloo", prompts: 2, samples: 4, conversations: 8, failed: 0, seed: 0 });
    t.is(first.model, join(folder, "checkpoint", "policy"));
    t.deepEqual(Object.keys(first.metrics), ["outcome", "accuracy"]);
    t.deepEqual(Object.keys(first.metrics.outcome.best), ["2", "4"]);
    t.true(first.metrics.outcome.best[4] >= first.metrics.outcome.mean);
    t.true(first.calls["judge/calls"] >= 1);
    t.regex(
      lines.join("\n"),
      /2 prompts × 4 samples, 0 of 8 .*\n.*mean@4 .*best@2 +best@4 +worst@2 +worst@4\noutcome /,
    );
    const page = readFileSync(join(folder, "eval", "index.html"), "utf8");
    t.regex(page, /2 prompts × 4/);
    t.is(page.match(/"place":"#\d+\.\d+"/g)!.length, 8);

    const [again, other] = [await evaluate({}), await evaluate({ seed: 1 }, "best")];
    t.deepEqual(again.tasks, first.tasks);
    t.true(existsSync(join(folder, "eval-2", "evaluation.json")), "nothing is overwritten");
    t.is(other.model, join(folder, "best", "policy"));
    const read = await readEvaluation(join(folder, "eval-3"));
    const comparison = compareEvaluations(first, read, ["a", "b"]);
    t.is(comparison.prompts, 2);
    t.deepEqual(
      comparison.metrics.map(({ metric }) => metric),
      ["outcome", "accuracy"],
    );
    const { metrics } = compareEvaluations(first, again, ["a", "b"]);
    t.deepEqual(metrics[0].difference, { mean: 0, low: 0, high: 0 });
  },
);

test.serial(
  "a run goes on with its users elsewhere, and remembers what they said; another kind of user is another run",
  async (t) => {
    const config = await smallRun(t, "math-baseline-rloo", "steps=1");
    const { folder } = await train(config, quiet);
    const { environment } = config;
    if (environment.name !== "simulated") return t.fail();
    const { url, bodies } = await faultyServer(t, { reply });
    const elsewhere = (user: object) => ({
      ...{ ...config, steps: 2 },
      environment: { ...environment, user: { ...environment.user, ...user } },
    });
    const moved = { server: { ...environment.user.server!, url } };
    await t.throwsAsync(train(elsewhere({ ...moved, persona: "patient" }), { ...quiet, resume: folder }), {
      instanceOf: InputError,
      message: /environment differs from what the run began with/,
    });
    await train(elsewhere(moved), { ...quiet, resume: folder });
    t.true(bodies.length > 0);
    t.is(readMetrics(folder).at(-1)!.step, 2);
  },
);

test("a checkpoint that was named is there or an error; never another in its place", async (t) => {
  const config = await smallRun(t, "math-baseline-rloo");
  const folder = temporaryFolder(t);
  for (const name of ["last", "best", "elsewhere"]) {
    t.throws(() => findModel(config, folder, name), {
      instanceOf: InputError,
      message: new RegExp(`--checkpoint ${name}: there is no model`),
    });
  }
  t.is(findModel(config, undefined, undefined), (config.model as { path: string }).path);
});

test.serial("a run of which too much fails stops and says why", async (t) => {
  const config = await smallRun(t, "math-baseline-rloo");
  const { environment } = config;
  if (environment.name !== "simulated") return t.fail();
  // A tiny random model in this process plays the user: it writes no JSON.
  const user = { ...environment.user, retries: 0, server: undefined };
  const local = { path: (config.model as { path: string }).path, dtype: "f32" as const, maxBatch: 8, cacheGiB: 0.1 };
  const bad = {
    ...config,
    environment: {
      ...environment,
      user: { ...user, local, maxTokens: 8 },
      judge: { ...environment.judge, server: environment.user.server },
    },
  };
  await t.throwsAsync(train(bad, quiet), {
    instanceOf: InputError,
    message: /^4 of 4 conversations failed, more than rollout\.maxFailures=0\.25 allows; \d of them by: user: /,
  });
});
