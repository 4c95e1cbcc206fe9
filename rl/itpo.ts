/**
 * Implicit Turn-wise Policy Optimization (arXiv 2603.23550) in one file, on four verbs: `sample`, `forwardBackward`,
 * `optimStep`, `saveState`. It does what `Trainer` does with the quickstart's configuration (Norm-ITPO, RLOO by turn index,
 * PPO) and nothing else; the general form of every formula is in `objective/`.
 *
 *     node dist/rl/itpo.js [key.path=value …]        trains the quickstart game
 *
 * The end of a name tells its dimensions: B conversations of a step, K turns of a conversation, T tokens of a conversation,
 * so that rewards_BK[i][k] is the reward of turn k of conversation i. Only tokens inside turns count: the policy drew them.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openDevice, randomStream } from "../lib/index.js";
import { type ChatRenderer, cloneParameters, Qwen } from "../models/index.js";
import { type RunModels, saveCheckpoint } from "./checkpoint.js";
import { loadTrainConfig, type TrainConfig } from "./config.js";
import type { Environment } from "./environment.js";
import { quickstartScript } from "./environments/quickstart/scripts.js";
import { scriptBatches } from "./environments/warmup.js";
import { heldOutItems } from "./evaluate.js";
import { forwardRows, Learner } from "./learner.js";
import type { Loss, RowGradient, TokenRange } from "./objective/index.js";
import { labelOf, outcomeOf } from "./outcome.js";
import { type RolloutItem, rollout } from "./rollout.js";
import { makeRunFolder } from "./runFolder.js";
import { openPolicy, openSetting } from "./setup.js";
import { fineTune, learningRate } from "./sft.js";
import { miniBatches } from "./stepMetrics.js";
import type { Trajectory } from "./trajectory.js";

/** π_θ, the policy, learns to talk; π_φ learns what a conversation is worth; π_ref is what both were at the start. */
export type ItpoModels = Required<Pick<RunModels, "policy" | "prm" | "reference">>;

export type ItpoTask = { config: TrainConfig; chat: ChatRenderer; environment: Environment };

/** Has conversations with the simulated user. Those that failed, or in which the policy said nothing, are left out. */
export async function sample(
  policy: Qwen,
  { config, chat, environment }: ItpoTask,
  items: readonly RolloutItem[],
  where: { split: "train" | "held_out"; step: number },
): Promise<Trajectory[]> {
  const options = { ...config.rollout, ...where, seed: config.seed };
  const { trajectories } = await rollout({ ...options, policy, chat, environment, items });
  return trajectories.filter(({ failure, turns }) => failure === undefined && turns.length > 0);
}

/** One training step on the conversations of `items`. */
export async function itpoStep(
  { policy, prm, reference }: ItpoModels,
  task: ItpoTask,
  items: readonly RolloutItem[],
  step: number,
) {
  const { config } = task;
  // Conversations, each with one outcome at its end.
  const talks_B = await sample(policy.model, task, items, { split: "train", step });
  const outcome_B = talks_B.map((talk) => outcomeOf(talk, config.outcome));
  const ref_BT = (await forwardRows(reference, talks_B, config)).map(({ logprobs }) => logprobs);

  // The process reward model learns to tell the outcome from β·Σ log π_φ/π_ref …
  const prmLr = learningRate(config.prm, config.steps)(step);
  const labelled_B = talks_B.map((talk, i) => ({ ...talk, ref_T: ref_BT[i], label: labelOf(talk, config.outcome) }));
  for (const part of miniBatches(labelled_B, config.prm.miniBatch)) {
    await prm.forwardBackward(part, outcomeLoss(config.prm.beta));
    await prm.optimStep({ lr: prmLr });
  }
  // … and its log-ratios then score every token.
  const phi_BT = (await forwardRows(prm.model, talks_B, config)).map(({ logprobs }) => logprobs);
  const scores_BT = normaliseScores(
    talks_B.map(({ turns, tokens }, i) => {
      const scores_T = new Float64Array(tokens.length);
      eachToken(turns, (t) => {
        scores_T[t] = config.prm.beta * (phi_BT[i][t] - ref_BT[i][t]);
      });
      return scores_T;
    }),
  );

  const weights_BK = turnWeights(talks_B, scores_BT, config.credit.temperature);
  const rewards_BK = weights_BK.map((weights_K, i) => weights_K.map((weight) => weight * outcome_B[i]));
  const advantages_BT = normaliseAdvantages(talks_B, turnAdvantages(talks_B, rewards_BK));

  const policyLr = learningRate(config.policy, config.steps)(step);
  const rows_B = talks_B.map((talk, i) => ({ ...talk, ref_T: ref_BT[i], advantages_T: advantages_BT[i] }));
  for (const part of step > config.prm.leadSteps ? miniBatches(rows_B, config.policy.miniBatch) : []) {
    await policy.forwardBackward(part, clippedLoss(config.policy));
    await policy.optimStep({ lr: policyLr });
  }
  return { talks_B, weights_BK, rewards_BK, advantages_BT, outcome: mean(outcome_B) };
}

/** A loss whose value is a sum over rows, from the function that gives one row's part and its derivatives by log-prob. */
function rowLoss<Row>(
  name: string,
  partOf: (row: Row, logprobs_T: ArrayLike<number>, rows_B: readonly Row[]) => RowGradient & { value: number },
): Loss<Row> {
  const needs = { entropy: false, values: false };
  const bind: Loss<Row>["bind"] = (rows_B) => (outputs, indices) => {
    const gradients = indices.map((i, j) => partOf(rows_B[i], outputs[j].logprobs, rows_B));
    const value = gradients.reduce((sum, part) => sum + part.value, 0);
    return { value, gradients, metrics: { [name]: value } };
  };
  return { name, scope: "row", needs, bind };
}

type LabelledRow = Pick<Trajectory, "turns"> & { ref_T: ArrayLike<number>; label: number };
type PolicyRow = Pick<Trajectory, "turns" | "logprobs"> & { ref_T: ArrayLike<number>; advantages_T: Float64Array };

/** Cross-entropy of the outcome y: softplus(x) − y·x with x = β·Σ_t log π_φ(t)/π_ref(t), the mean over conversations. */
function outcomeLoss(beta: number): Loss<LabelledRow> {
  return rowLoss("outcome", ({ turns, ref_T, label }, logprobs_T, { length }) => {
    let x = 0;
    eachToken(turns, (t) => {
      x += beta * (logprobs_T[t] - ref_T[t]);
    });
    const gradient_T = new Float64Array(logprobs_T.length);
    const slope = (beta * (1 / (1 + Math.exp(-x)) - label)) / length;
    for (const { start, end } of turns) gradient_T.fill(slope, start, end);
    return { value: (Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))) - label * x) / length, logprobs: gradient_T };
  });
}

/** Scores over the largest |Σ_{u≥t} score[u]| of the batch, so that β cancels. */
function normaliseScores(scores_BT: readonly Float64Array[]): Float64Array[] {
  let largest = 0;
  for (const scores_T of scores_BT) {
    scores_T.reduceRight((suffix, score) => {
      largest = Math.max(largest, Math.abs(suffix + score));
      return suffix + score;
    }, 0);
  }
  return scores_BT.map((scores_T) => scores_T.map((score) => score / (largest + 1e-6)));
}

/** Norm-ITPO: softmax over a conversation's turns of mean score per token · mean turn length of the batch / τ. */
function turnWeights(
  talks_B: readonly Trajectory[],
  scores_BT: readonly Float64Array[],
  temperature: number,
): number[][] {
  const lengths_BK = talks_B.map(({ turns }) => turns.map(({ start, end }) => end - start));
  const meanLength = mean(lengths_BK.flat());
  return talks_B.map(({ turns }, i) => {
    const logits_K = turns.map(({ start, end }, k) => {
      const score = scores_BT[i].subarray(start, end).reduce((a, b) => a + b, 0);
      return ((score / lengths_BK[i][k]) * meanLength) / temperature;
    });
    const exp_K = logits_K.map((logit) => Math.exp(logit - Math.max(...logits_K)));
    const sum = exp_K.reduce((a, b) => a + b, 0);
    return exp_K.map((e) => e / sum);
  });
}

/** RLOO by turn index: the rewards from a turn on, less the mean of those of the task's other conversations that got there. */
function turnAdvantages(talks_B: readonly Trajectory[], rewards_BK: readonly number[][]): number[][] {
  const toGo_BK = rewards_BK.map((rewards_K) => rewards_K.map((_, k) => rewards_K.slice(k).reduce((a, b) => a + b, 0)));
  return toGo_BK.map((toGo_K, i) =>
    toGo_K.map((toGo, k) => {
      const siblings = toGo_BK.filter(
        (other_K, j) => j !== i && talks_B[j].task === talks_B[i].task && other_K.length > k,
      );
      return toGo - (siblings.length > 0 ? mean(siblings.map((other_K) => other_K[k])) : 0);
    }),
  );
}

/** Every token of a turn has the turn's advantage, over the root mean square of all tokens: signs stay. */
function normaliseAdvantages(talks_B: readonly Trajectory[], advantages_BK: readonly number[][]): Float64Array[] {
  let [squares, count] = [0, 0];
  const advantages_BT = talks_B.map(({ turns, tokens }, i) => {
    const advantages_T = new Float64Array(tokens.length);
    turns.forEach(({ start, end }, k) => {
      advantages_T.fill(advantages_BK[i][k], start, end);
      squares += (end - start) * advantages_BK[i][k] ** 2;
      count += end - start;
    });
    return advantages_T;
  });
  const scale = 1 / Math.sqrt(squares / count + 1e-8);
  return advantages_BT.map((advantages_T) => advantages_T.map((advantage) => advantage * scale));
}

/** PPO: max(−A·ρ, −A·clip(ρ)), at most −A·dualClip where A < 0, plus a KL penalty (k3); the mean over all tokens drawn. */
function clippedLoss({ clipLow, clipHigh, dualClip, kl }: TrainConfig["policy"]): Loss<PolicyRow> {
  return rowLoss("clipped", ({ turns, logprobs: old_T, ref_T, advantages_T }, logprobs_T, rows_B) => {
    const count = rows_B.flatMap((row) => row.turns).reduce((sum, { start, end }) => sum + end - start, 0);
    const gradient_T = new Float64Array(logprobs_T.length);
    let value = 0;
    eachToken(turns, (t) => {
      const advantage = advantages_T[t];
      const ratio = Math.exp(Math.min(Math.max(logprobs_T[t] - old_T[t], -20), 20));
      const free = -advantage * ratio;
      const clipped = -advantage * Math.min(Math.max(ratio, 1 - clipLow), 1 + clipHigh);
      const cap = advantage < 0 ? -advantage * dualClip : Number.POSITIVE_INFINITY;
      const d = logprobs_T[t] - ref_T[t];
      const k3 = Math.expm1(-d) + d;
      value += (Math.min(Math.max(free, clipped), cap) + kl * Math.min(k3, 10)) / count;
      if (free >= clipped && free <= cap) gradient_T[t] += free / count;
      if (k3 <= 10) gradient_T[t] -= (kl * Math.expm1(-d)) / count;
    });
    return { value, logprobs: gradient_T };
  });
}

function eachToken(turns: readonly TokenRange[], visit: (t: number) => void): void {
  for (const { start, end } of turns) for (let t = start; t < end; t++) visit(t);
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** The quickstart game from nothing: supervised warm-up, then ITPO, then a checkpoint. */
async function main(overrides: readonly string[]): Promise<void> {
  const config = await loadTrainConfig("quickstart", overrides);
  const backend = await openDevice(config.device);
  const { environment, tokenizer } = await openSetting(config, backend);
  const policy = await openPolicy(config, backend, tokenizer);
  const task = { config, chat: policy.chat, environment };
  if (config.warmup) {
    const scripts = { size: config.warmup.batchSize, games: environment.size, seed: config.seed };
    await fineTune(
      new Learner(policy.model, config.warmup),
      config.warmup,
      scriptBatches(policy, quickstartScript, scripts),
    );
  }
  const { prompts, samples, temperature } = config.rollout;
  const copy = (frozen: boolean) => new Qwen(policy.model.config, cloneParameters(policy.model.parameters, { frozen }));
  const models: ItpoModels = {
    reference: copy(true),
    prm: new Learner(copy(false), config.prm),
    policy: new Learner(policy.model, { ...config.policy, temperature }),
  };
  for (let step = 1; step <= config.steps; step++) {
    const random = randomStream(config.seed, step);
    const games = Array.from({ length: prompts }, () => random.int(environment.size));
    const numbers = [...Array(samples).keys()];
    const items = games.flatMap((task, g) => numbers.map((i) => ({ task, sample: g * samples + i })));
    const { outcome } = await itpoStep(models, task, items, step);
    console.log(`step ${step}/${config.steps}  outcome ${outcome.toFixed(3)}`);
  }
  const heldOut = heldOutItems(config.evaluate.conversations, environment.heldOutSize);
  const talks = await sample(models.policy.model, task, heldOut, { split: "held_out", step: 0 });
  console.log(`held-out outcome ${mean(talks.map((talk) => outcomeOf(talk, config.outcome))).toFixed(3)}`);
  const folder = join(await makeRunFolder(config.output, "itpo"), "checkpoint");
  await saveCheckpoint(folder, models, policy.tokenizer, { step: config.steps, config }); // the verb `saveState`
  backend.close();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
