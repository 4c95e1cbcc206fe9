import test from "ava";
import { InputError, randomStream } from "../../../../lib/index.js";
import { simulatedEnvironment } from "../../../../rl/environments/simulated/environment.js";
import { checkFailures } from "../../../../rl/failures.js";
import { remoteModel } from "../../../../rl/llm/remoteModel.js";
import { createSpeaker } from "../../../../rl/llm/speaker.js";
import { rollout } from "../../../../rl/rollout.js";
import { rolloutMetrics } from "../../../../rl/stepMetrics.js";
import { type Fault, faultyServer } from "../../llm/faultyServer.js";
import { talker } from "../../support.js";
import { saying, someTasks } from "./support.js";

/** Of 100 requests so many go wrong in each way. */
const shares: readonly (readonly [Fault, number])[] = [
  ["rate_limit", 7],
  ["error", 6],
  ["cut", 5],
  ["no_json", 5],
  ["wrong_form", 4],
  ["empty", 4],
  ["no_completion", 2],
];
/** Requests that never get an answer, or half of one. All early, so that they are waited for together. */
const hangs: Readonly<Record<number, Fault>> = {
  3: "hang",
  40: "hang_in_body",
  41: "hang",
  90: "hang_in_body",
  99: "hang",
};

function drawFault(number: number): Fault | undefined {
  let draw = randomStream(11, number).uniform() * 100;
  return hangs[number] ?? shares.find(([, share]) => (draw -= share) < 0)?.[0];
}

test.serial(
  "128 conversations with users and judges of whom a third of the answers go wrong: all end in time, none scores 0, and every fault is counted",
  async (t) => {
    const server = await faultyServer(t, {
      reply: (prompt) => (prompt.includes("You grade") ? '{"thought": "", "accuracy": 1}' : saying("maybe red")),
      fault: drawFault,
      latency: (number) => number % 20,
    });
    const deadline = 60;
    const limits = {
      concurrency: 32,
      timeout: 15,
      deadline,
      retries: 2,
      backoff: 0.02,
      sampling: { temperature: 1, maxTokens: 64 },
    };
    const model = remoteModel({ url: server.url, model: "m" });
    const environment = simulatedEnvironment({
      train: someTasks(16),
      heldOut: someTasks(1, 99),
      metrics: ["accuracy"],
      user: createSpeaker({ role: "user", model, ...limits }),
      judge: createSpeaker({ role: "judge", model, ...limits }),
    });
    const { policy, chat } = talker();
    const items = Array.from({ length: 128 }, (_, i) => ({ task: i >> 3, sample: i & 7 }));
    const size = { maxTurns: 3, maxTurnTokens: 5, maxTokens: 90 };
    const { trajectories } = await rollout({ policy, chat, environment, items, seed: 1, temperature: 1, ...size });

    const failed = trajectories.filter(({ failure }) => failure !== undefined);
    t.is(trajectories.length, 128);
    t.true(failed.length > 0 && failed.length < 64, `${failed.length} failed`);
    for (const { failure, metrics, stop } of trajectories) {
      t.deepEqual(metrics, failure === undefined ? { accuracy: 1 } : {});
      if (failure !== undefined) {
        t.regex(failure, /^(user|judge): .*after 3 attempts$/);
        t.is(stop, "failed");
      }
    }

    const metrics = environment.takeMetrics!();
    const sum = (name: string) => (metrics[`user/${name}`] ?? 0) + (metrics[`judge/${name}`] ?? 0);
    const { counts } = server;
    t.is(sum("failures"), failed.length);
    t.is(sum("attempts"), server.bodies.length);
    t.is(sum("faults_rate_limit"), counts.rate_limit);
    t.is(sum("faults_server"), counts.error + counts.no_completion);
    t.is(sum("faults_connection"), counts.cut);
    t.is(sum("faults_timeout"), counts.hang + counts.hang_in_body);
    t.is(sum("faults_empty"), counts.empty);
    t.is(sum("faults_unusable"), counts.no_json + counts.wrong_form);
    t.is(sum("calls"), counts.good + failed.length);
    t.true(Math.max(metrics["user/call_seconds_max"], metrics["judge/call_seconds_max"]) <= deadline + 1);

    const outcome = { metrics: { accuracy: 1 }, tokenPenalty: 0, wordPenalty: 0 };
    t.like(rolloutMetrics(trajectories, { outcome }), { "outcome/mean": 1, "rollout/failed": failed.length });
    t.notThrows(() => checkFailures(trajectories, 0.5));
    t.throws(() => checkFailures(trajectories, 0), {
      instanceOf: InputError,
      message:
        /^\d+ of 128 conversations failed, more than rollout\.maxFailures=0 allows; \d+ of them by: (user|judge): /,
    });
  },
);
