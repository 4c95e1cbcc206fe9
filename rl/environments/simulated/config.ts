import { z } from "zod";

const count = z.int().positive();
const seconds = z.number().positive();

/** A model behind a server that speaks OpenAI's chat API. */
const server = z.strictObject({
  url: z.url({ protocol: /^https?$/ }).default("http://127.0.0.1:8000/v1"),
  model: z.string().describe("what the server calls it"),
  apiKeyEnv: z
    .string()
    .default("ITPO_API_KEY")
    .describe("environment variable with the key; none is needed where it is unset"),
  structured: z
    .enum(["auto", "schema", "text"])
    .default("auto")
    .describe("auto has the server hold replies to a JSON schema until it refuses; text never asks for it"),
});

/** A model in this process; those with the same path are loaded once. */
const local = z.strictObject({
  path: z.string().describe("model folder"),
  dtype: z.enum(["f32", "bf16"]).default("f32"),
  context: count.optional().describe("most tokens of a prompt and its reply; default: what the model allows"),
  maxBatch: count.default(64),
  cacheGiB: z.number().positive().default(1).describe("memory for keys and values"),
});

const caller = {
  server: server.optional(),
  local: local.optional(),
  topP: z.number().gt(0).max(1).optional(),
  concurrency: count.default(64).describe("calls under way at once"),
  timeout: seconds.default(60).describe("seconds for one attempt"),
  deadline: seconds.default(180).describe("seconds for a call as a whole, waiting and retries included"),
  backoff: seconds.default(0.5).describe("seconds before the first retry, twice as long before each further one"),
  price: z
    .strictObject({ prompt: z.number().nonnegative().default(0), completion: z.number().nonnegative().default(0) })
    .prefault({})
    .describe("of a million tokens"),
};

const user = z.strictObject({
  ...caller,
  persona: z.enum(["requester", "patient"]).default("requester"),
  temperature: z.number().nonnegative().default(1),
  maxTokens: count.default(512),
  retries: z.int().nonnegative().default(2),
});

const judge = z.strictObject({
  ...caller,
  temperature: z.number().nonnegative().default(0),
  maxTokens: count.default(2048),
  retries: z.int().nonnegative().default(5),
});

/** Users and judges that models play, over the tasks of a prepared data set. */
export const simulatedForm = z.strictObject({
  name: z.literal("simulated"),
  train: z.string().describe("file of tasks, as itpo data prepare writes it"),
  heldOut: z.string().describe("file of held-out tasks"),
  user,
  judge: judge.prefault({}).describe("without server and local: the user's model"),
  allowCodeExecution: z.boolean().default(false).describe("pass_rate runs what the policy wrote, in a sandbox"),
  report: z.array(z.string()).default([]).describe("metrics to score beside those of outcome.metrics"),
});

export type SimulatedConfig = z.infer<typeof simulatedForm>;
export type CallerConfig = SimulatedConfig["user"] | SimulatedConfig["judge"];
