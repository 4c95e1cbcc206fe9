import { z } from "zod";
import { InputError } from "../lib/index.js";
import { simulatedForm } from "./environments/simulated/config.js";
import {
  type AdvantageEstimator,
  advantageEstimators,
  type CreditMethod,
  creditMethods,
  fixedAggregation,
  type KlEstimator,
  klEstimators,
  outcomeEstimators,
  type PolicyLossName,
  policyLossNames,
  type RlooForm,
  rlooForms,
} from "./objective/index.js";
import { readRecipe } from "./recipe.js";
import { rewardMetrics } from "./rewards/registry.js";

const count = z.int().positive();
const size = z.int().nonnegative();
const fraction = z.number().min(0).max(1);
const share = z.number().gt(0).lt(1);
const decay = z.number().min(0).lt(1);
const rate = z.number().nonnegative();

const klEstimator = z.enum(Object.keys(klEstimators) as [KlEstimator, ...KlEstimator[]]);

/** A Qwen model with fresh weights. */
const scratch = z.strictObject({
  architecture: z.enum(["qwen2", "qwen3"]).default("qwen2"),
  layers: count.default(2),
  hiddenSize: count.default(64),
  intermediateSize: count.default(160),
  heads: count.default(4),
  kvHeads: count.optional().describe("default: heads"),
  headDim: count.optional().describe("default: hiddenSize / heads"),
  maxPositions: count.default(1024),
  ropeTheta: z.number().positive().default(10000),
  tieWordEmbeddings: z.boolean().default(true),
  initializerRange: z.number().positive().default(0.02),
  embeddingRange: z.number().positive().optional().describe("the embedding's own; default: initializerRange"),
  tokenizer: z.string().optional().describe("folder with a tokenizer; the environment may bring its own"),
});

const model = z.union([z.strictObject({ path: z.string() }), z.strictObject({ scratch })]);

const quickstart = z.strictObject({ name: z.literal("quickstart"), heldOutGames: count.default(512) });
const smalltalk = quickstart.extend({ name: z.literal("smalltalk") });
const medical = z.strictObject({
  name: z.literal("medical"),
  train: z.string().describe("MTMedDialog parquet file"),
  heldOutShare: share.default(0.1),
  systemPrompt: z.string().optional(),
});

const optimizer = {
  lr: rate.default(1e-6),
  schedule: z.enum(["constant", "linear", "cosine"]).default("constant"),
  finalLr: fraction.default(0.1).describe("share of lr left at the end of a schedule"),
  betas: z.tuple([decay, decay]).default([0.9, 0.999]),
  weightDecay: rate.default(0),
  gradClip: z.number().positive().default(1),
};

const sft = z.strictObject({
  ...optimizer,
  steps: count.default(400),
  batchSize: count.default(32).describe("conversations per optimizer step"),
  warmupSteps: size.default(20),
});

const every = size.default(50).describe("steps; 0: only at the end");
const checkpoint = z.strictObject({ every }).prefault({});
const keptCheckpoints = z
  .strictObject({
    every,
    best: z.boolean().default(true).describe("keep the policy with the best held-out outcome, too"),
  })
  .prefault({});

const training = {
  name: z.string().regex(/^\w[\w.-]*$/, "letters, digits, dots and dashes only, and no dot or dash in front"),
  seed: z.int().nonnegative().default(0),
  device: z.string().default("auto"),
  dtype: z
    .enum(["f32", "bf16"])
    .default("f32")
    .describe("of weights and activations; masters, moments and gradients are f32 either way"),
  output: z.string().default("runs"),
  model,
  microBatchTokens: count.default(8192),
};

const trainSchema = z.strictObject({
  ...training,
  environment: z.discriminatedUnion("name", [quickstart, smalltalk, medical, simulatedForm]),
  steps: count.default(100),
  warmup: sft
    .nullable()
    .optional()
    .describe("supervised steps on the environment's scripts before reinforcement learning; null: none"),
  rollout: z.strictObject({
    prompts: count.default(16),
    samples: count.default(8).describe("conversations per prompt, the group"),
    temperature: z.number().positive().default(1),
    maxTurns: count.default(5),
    discardLast: z
      .boolean()
      .default(false)
      .describe(
        "the reference's form: turn maxTurns is thrown away, and the conversation ends with the user's message",
      ),
    maxTurnTokens: count.default(512),
    maxTokens: count.default(4096),
    cacheGiB: z.number().positive().default(1).describe("most memory for keys and values; idle conversations give way"),
    drawsOn: z
      .enum(["host", "device"])
      .optional()
      .describe(
        "where tokens are drawn; device: in recorded steps, enqueued ahead (cuda in bf16). Default: there if it can",
      ),
    dynamicSampling: z
      .boolean()
      .default(false)
      .describe("groups whose rewards are all equal are dropped and others sampled in their place"),
    maxRounds: count.default(4).describe("rounds of sampling a step at most, with dynamicSampling"),
    maxFailures: fraction
      .default(0.25)
      .describe("share of conversations that may fail; the run stops where more do, and says why"),
  }),
  outcome: z
    .strictObject({
      metrics: z.record(z.string(), z.number()).default({ accuracy: 1 }).describe("weight of each outcome metric"),
      tokenPenalty: rate.default(0).describe("cost of one sampled token"),
      wordPenalty: rate
        .default(0)
        .describe("cost of one word, the user's after the opening too; as the reference counts"),
    })
    .prefault({}),
  credit: z
    .strictObject({
      method: z.enum(creditMethods as [CreditMethod, ...CreditMethod[]]).default("norm_itpo"),
      form: z.enum(["mean", "sum"]).default("mean"),
      temperature: z.number().positive().default(0.4),
      uniformMix: fraction.default(0),
      concentration: z.number().positive().default(1).describe("of dirichlet's random shares"),
      coefficient: z.number().default(1),
      outcomeCoefficient: z.number().default(0),
    })
    .prefault({}),
  advantage: z
    .strictObject({
      estimator: z.enum(advantageEstimators as [AdvantageEstimator, ...AdvantageEstimator[]]).default("rloo"),
      form: z
        .enum(rlooForms as [RlooForm, ...RlooForm[]])
        .default("turn_index")
        .describe("of rloo"),
      normalise: z
        .enum(["rms", "whiten", "none"])
        .optional()
        .describe("default: rms for rloo, whiten for ppo and reinforce_plus_plus*, none for the others"),
      gamma: fraction.default(1).describe("discount per sampled token; ppo and reinforce_plus_plus"),
      lambda: fraction.default(1).describe("of ppo's generalised advantage estimation"),
      acrossTurns: z
        .boolean()
        .default(true)
        .describe("reinforce_plus_plus: false starts returns again at each user message, as the reference"),
    })
    .prefault({}),
  prm: z
    .strictObject({
      ...optimizer,
      gradClip: z.number().positive().default(10),
      loss: z.enum(["ce", "dpo", "bon_acc", "bon_rm"]).default("ce"),
      update: z
        .enum(["before", "after", "reverse", "none"])
        .default("before")
        .describe("train, then score; score in the training passes; score, then train; score only"),
      beta: z.number().positive().default(0.05),
      lambda: fraction.default(0).describe("of the recursion r[t] = β·q[t] + λ·r[t+1]"),
      useOutcome: z
        .boolean()
        .default(false)
        .describe("the last token's score gives way to what the conversation's scores lack of its outcome"),
      granularity: z.enum(["token", "whole"]).default("token").describe("whole: the scores' sum on the last token"),
      norm: z.enum(["batch", "none"]).default("batch").describe("batch divides scores by the largest suffix sum"),
      normRanks: count
        .default(1)
        .describe("runs of rows with a divisor of their own, the reference's data-parallel ranks"),
      label: z.enum(["soft", "hard"]).default("soft"),
      threshold: z.number().default(0.5).describe("hard labels are 1 above it"),
      reference: z.boolean().default(false).describe("the reference's saturating cross-entropy and dropped last token"),
      miniBatch: count.default(4).describe("conversations per optimizer step"),
      leadSteps: size.default(0).describe("first steps in which only the reward model learns"),
    })
    .prefault({}),
  policy: z
    .strictObject({
      ...optimizer,
      miniBatch: count.default(32).describe("conversations per optimizer step"),
      epochs: count.default(1),
      loss: z.enum(policyLossNames as [PolicyLossName, ...PolicyLossName[]]).default("vanilla"),
      clipLow: fraction.default(0.2),
      clipHigh: rate.default(0.2),
      dualClip: z.number().gt(1).default(3),
      aggregation: z
        .enum(["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
        .default("token-mean"),
      kl: rate.default(0.001).describe("coefficient of the KL divergence from the reference"),
      klEstimator: klEstimator.default("k3"),
      klReward: z
        .strictObject({
          coefficient: rate.default(0).describe("of the KL divergence inside the reward"),
          estimator: klEstimator.default("k1"),
          controller: z.enum(["fixed", "adaptive"]).default("fixed"),
          target: z.number().positive().default(0.1).describe("nats a token, adaptive"),
          horizon: z.number().positive().default(10000).describe("conversations, adaptive"),
        })
        .prefault({}),
      entropy: rate.default(0).describe("coefficient of the entropy bonus"),
      covShare: fraction.default(2e-4).describe("share of the tokens that clip_cov and kl_cov act on"),
      covLow: z.number().default(1).describe("clip_cov: covariances above this"),
      covHigh: z.number().default(5).describe("clip_cov: covariances below this"),
      covKl: rate.default(1).describe("kl_cov's coefficient"),
      importance: z
        .strictObject({
          level: z.enum(["none", "token", "sequence"]).default("none").describe("none: sampler and trainer are one"),
          bound: z.enum(["truncate", "mask"]).default("truncate"),
          high: z.number().positive().default(2),
          low: rate.default(0.5),
        })
        .prefault({}),
      maskTruncated: z.boolean().default(false).describe("no gradient on turns cut off at a token limit"),
    })
    .prefault({}),
  critic: z
    .strictObject({
      ...optimizer,
      lr: rate.default(1e-5),
      miniBatch: count.default(32).describe("conversations per optimizer step"),
      epochs: count.default(1),
      clip: z.number().positive().default(0.5).describe("a value moves by this much at most in a step"),
      leadSteps: size.default(0).describe("first steps in which the policy does not learn"),
    })
    .prefault({}),
  evaluate: z
    .strictObject({
      every: size.default(10).describe("steps between evaluations; 0: only at the start and the end"),
      conversations: count.default(128).describe("held-out conversations"),
      temperature: rate.default(1),
      probe: size.default(0).describe("warm-start conversations on which credit is scored against the truth"),
    })
    .prefault({}),
  checkpoint: keptCheckpoints,
  control: z
    .enum(["none", "permuted_outcomes"])
    .default("none")
    .describe("permuted_outcomes deals the outcomes to the wrong conversations: nothing may be learnt"),
});

const sftSchema = z.strictObject({
  ...training,
  data: z.strictObject({
    train: z.string().describe("MTMedDialog file, or sft_train.parquet of itpo data prepare"),
    validation: z.string().optional().describe("file to hold out; default: a share of data.train"),
    heldOutShare: share.default(0.1),
    maxTokens: count.default(1024).describe("longer dialogues are left out, and counted"),
    reasoning: z.boolean().default(true).describe("keep the doctor's think blocks"),
  }),
  tokenizer: z
    .strictObject({ vocabSize: count.default(4096) })
    .optional()
    .describe("train a byte-level BPE on the dialogues for a model from scratch"),
  sft,
  checkpoint,
});

/** A resolved training configuration; every key has its value. */
export type TrainConfig = z.infer<typeof trainSchema>;
export type SftConfig = z.infer<typeof sftSchema>;
export type SftOptions = z.infer<typeof sft>;
export type OptimizerOptions = Pick<SftOptions, keyof typeof optimizer>;
export type ScratchModel = z.infer<typeof scratch>;

/**
 * Reads a recipe by name or a YAML file by path, applies `key.path=value` overrides, and fills in defaults.
 * @throws InputError for a file that is not there, a key that does not exist, or a value out of range.
 */
export async function loadTrainConfig(recipe: string, overrides: readonly string[] = []): Promise<TrainConfig> {
  const config = await readRecipe(recipe, overrides);
  if (isFor(config, "data", "environment"))
    throw new InputError(`${recipe}: is a configuration for itpo sft; run that`);
  return checkTrainConfig(validate(trainSchema, config, recipe), recipe);
}

/** The same for supervised fine-tuning. */
export async function loadSftConfig(recipe: string, overrides: readonly string[] = []): Promise<SftConfig> {
  const config = await readRecipe(recipe, overrides);
  if (isFor(config, "environment", "data"))
    throw new InputError(`${recipe}: is a configuration for itpo train; run that`);
  return validate(sftSchema, config, recipe);
}

/** Whether a configuration has the key that tells its kind, and not the other kind's. */
function isFor(config: object, key: string, other: string): boolean {
  return key in config && !(other in config);
}

function validate<T>(schema: z.ZodType<T>, config: unknown, where: string): T {
  const result = schema.safeParse(config);
  if (result.success) return result.data;
  throw new InputError(`${where}: ${result.error.issues.map((issue) => describeIssue(issue)).join("; ")}`);
}

function describeIssue(issue: z.core.$ZodIssue, parents: readonly PropertyKey[] = []): string {
  const whole = [...parents, ...issue.path];
  const path = whole.join(".");
  // Of the forms that a value may have, the one that it comes nearest to.
  if (issue.code === "invalid_union" && issue.errors.length > 0) {
    const [nearest] = [...issue.errors].sort((a, b) => a.length - b.length);
    return nearest.map((inner) => describeIssue(inner, whole)).join("; ");
  }
  if (issue.code === "unrecognized_keys") {
    const keys = issue.keys.map((key) => (path ? `${path}.${key}` : key)).join(", ");
    return issue.keys.length > 1
      ? `${keys} do not exist; remove them or correct their names`
      : `${keys} does not exist; remove it or correct its name`;
  }
  return `${path || "the whole"}: ${issue.message}`;
}

/** Estimators that compare the conversations of a prompt, for which one is not enough. */
const ungrouped: readonly AdvantageEstimator[] = ["ppo", "reinforce_plus_plus", "remax"];
const discounted: readonly AdvantageEstimator[] = ["ppo", "reinforce_plus_plus"];

/** What no single key can know: whether it is wrong, and what to do. */
const crossChecks: readonly ((config: TrainConfig) => string | false | null | undefined)[] = [
  ({ rollout, advantage: { estimator } }) =>
    rollout.samples < 2 &&
    !ungrouped.includes(estimator) &&
    "rollout.samples is 1; a group-relative advantage needs at least 2",
  (config) => {
    const rows = config.rollout.prompts * config.rollout.samples;
    const role = (["prm", "policy", "critic"] as const).find(
      (name) => config[name].miniBatch > rows && (name !== "critic" || needsCritic(config)),
    );
    return role && `${role}.miniBatch is ${config[role].miniBatch}, but a step has ${rows} conversations`;
  },
  ({ outcome }) =>
    !(Object.values(outcome.metrics).reduce((a, b) => a + b, 0) > 0) &&
    "outcome.metrics: the weights must add up to more than 0; name the metrics that count",
  ({ warmup, environment }) =>
    warmup &&
    environment.name === "medical" &&
    "warmup needs an environment with scripts (quickstart, smalltalk); fine-tune with `itpo sft` and set model.path",
  ({ credit }) =>
    credit.method !== "norm_itpo" && credit.uniformMix > 0 && "credit.uniformMix goes with credit.method norm_itpo",
  ({ credit, advantage }) =>
    advantage.estimator === "rloo" &&
    advantage.form === "share" &&
    (credit.method === "itpo" || credit.method === "value") &&
    `advantage.form share needs credit that sums to the outcome, not ${credit.method}`,
  ({ credit, advantage }) =>
    advantage.estimator === "rloo" &&
    advantage.form === "advantage_share" &&
    ["itpo", "prime", "value"].includes(credit.method) &&
    `advantage.form advantage_share needs credit by weights of the turns, not ${credit.method}`,
  ({ credit, advantage: { estimator } }) =>
    (outcomeEstimators as readonly string[]).includes(estimator) &&
    credit.method !== "shared" &&
    `advantage.estimator ${estimator} knows whole conversations only; set credit.method=shared`,
  ({ advantage: { estimator, gamma } }) =>
    gamma !== 1 &&
    !discounted.includes(estimator) &&
    "advantage.gamma goes with advantage.estimator ppo or reinforce_plus_plus; leave it 1",
  ({ advantage: { estimator, lambda } }) =>
    lambda !== 1 && estimator !== "ppo" && "advantage.lambda goes with advantage.estimator ppo; leave it 1",
  ({ prm }) =>
    prm.loss !== "ce" && prm.label === "soft" && `prm.loss ${prm.loss} compares right with wrong; set prm.label=hard`,
  ({ prm, rollout: { samples } }) =>
    prm.loss !== "ce" &&
    prm.miniBatch % samples !== 0 &&
    `prm.loss ${prm.loss} needs whole groups; set prm.miniBatch to a multiple of rollout.samples, ${samples}`,
  ({ policy: { loss, aggregation } }) => {
    const fixed = fixedAggregation(loss);
    return (
      fixed &&
      aggregation !== fixed &&
      `policy.loss ${loss} averages over conversations; set policy.aggregation=${fixed}`
    );
  },
  ({ policy: { loss, epochs, miniBatch }, rollout }) =>
    loss === "gpg" &&
    (epochs > 1 || miniBatch < rollout.prompts * rollout.samples) &&
    `policy.loss gpg is on policy only; set policy.epochs=1 and policy.miniBatch=${rollout.prompts * rollout.samples}`,
  ({ rollout }) =>
    rollout.discardLast &&
    rollout.maxTurns < 2 &&
    "rollout.discardLast throws the last turn away; set rollout.maxTurns to at least 2",
  ({ environment, outcome }) => {
    if (environment.name !== "simulated") return false;
    const unknown = [...Object.keys(outcome.metrics), ...environment.report].find(
      (name) => !rewardMetrics.includes(name),
    );
    return (
      unknown !== undefined &&
      `there is no metric '${unknown}' for simulated users; there are ${rewardMetrics.join(", ")}`
    );
  },
  ({ environment, outcome }) =>
    environment.name === "simulated" &&
    !environment.allowCodeExecution &&
    [...Object.keys(outcome.metrics), ...environment.report].includes("pass_rate") &&
    "pass_rate runs code that the policy wrote; allow it with --allow-code-execution",
  ({ environment }) => {
    if (environment.name !== "simulated") return false;
    const { user, judge } = environment;
    if (!user.server && !user.local) return "environment.user names no model; give server or local";
    const both = Object.entries({ user, judge }).find(([, { server, local }]) => server && local);
    return both && `environment.${both[0]} has both server and local; take one away`;
  },
  ({ environment }) => {
    if (environment.name !== "simulated") return false;
    const late = Object.entries({ user: environment.user, judge: environment.judge }).find(
      ([, { timeout, deadline }]) => timeout > deadline,
    );
    return late && `environment.${late[0]}.timeout is longer than its deadline; lower it`;
  },
  ({ policy: { importance } }) =>
    importance.level !== "none" &&
    importance.low > importance.high &&
    "policy.importance.low is above policy.importance.high; exchange them",
];

function checkTrainConfig(config: TrainConfig, where: string): TrainConfig {
  for (const check of crossChecks) {
    const message = check(config);
    if (message) throw new InputError(`${where}: ${message}`);
  }
  return config;
}

const withPrm: readonly TrainConfig["credit"]["method"][] = ["norm_itpo", "itpo", "prime"];

/** Whether a run trains and asks a process reward model. */
export function needsPrm({ credit }: Pick<TrainConfig, "credit">): boolean {
  return withPrm.includes(credit.method);
}

/** Whether a run trains and asks a critic. */
export function needsCritic({ credit, advantage }: Pick<TrainConfig, "credit" | "advantage">): boolean {
  return credit.method === "value" || advantage.estimator === "ppo";
}

/** The files and folders that a run reads, by key. */
export function filesOf({ model, environment }: TrainConfig): [key: string, path: string][] {
  const files = {
    "model.path": "path" in model ? model.path : undefined,
    "environment.train": "train" in environment ? environment.train : undefined,
    "environment.heldOut": environment.name === "simulated" ? environment.heldOut : undefined,
    "environment.user.local.path": environment.name === "simulated" ? environment.user.local?.path : undefined,
    "environment.judge.local.path": environment.name === "simulated" ? environment.judge.local?.path : undefined,
  };
  return Object.entries(files).flatMap(([key, path]) => (path === undefined ? [] : [[key, path] as [string, string]]));
}
