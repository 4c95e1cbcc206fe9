import { z } from "zod";
import { InputError } from "../lib/errors.js";

/** The shape of a dense Qwen2, Qwen2.5 (both `qwen2`) or Qwen3 model. Sizes are counts, `headDim` is per head. */
export interface QwenConfig {
  readonly architecture: "qwen2" | "qwen3";
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  /** Query heads; a multiple of `kvHeads`. */
  readonly heads: number;
  readonly kvHeads: number;
  /** Even. `heads · headDim` need not equal `hiddenSize` (Qwen3). */
  readonly headDim: number;
  /** The longest sequence, in tokens. */
  readonly maxPositions: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  /** Whether the lm head is the embedding matrix. */
  readonly tieWordEmbeddings: boolean;
  /** Whether q, k and v have a bias (Qwen2); the output projection never has. */
  readonly qkvBias: boolean;
  /** Whether q and k pass an RMS norm per head (Qwen3). */
  readonly qkNorm: boolean;
  /** May be empty. `generation_config.json` can name more. */
  readonly eosTokenIds: readonly number[];
  /** The padding token's id: its embedding gets no gradient (PyTorch's `padding_idx`), and prompts are freed of it. */
  readonly padTokenId?: number;
  /** Standard deviation of fresh weights. */
  readonly initializerRange: number;
  /** In what the weights are stored. */
  readonly dtype: "float32" | "bfloat16" | "float16";
}

const ARCHITECTURES = {
  qwen2: { className: "Qwen2ForCausalLM", qkvBias: true, qkNorm: false },
  qwen3: { className: "Qwen3ForCausalLM", qkvBias: false, qkNorm: true },
} as const;

const QWEN3_HEAD_DIM = 128; // transformers' default where config.json does not say.

const count = z.int().positive();
/** Far more than any model has; every layer takes memory before the first weight is read. */
const MAX_LAYERS = 1000;
const tokenId = z.int().nonnegative();
const dtype = z.enum(["float32", "bfloat16", "float16"]);
const ropeForm = z.looseObject({
  rope_theta: z.number().positive().optional(),
  rope_type: z.string().optional(),
  type: z.string().optional(),
  partial_rotary_factor: z.number().optional(),
});

// Keys that are not named here nor below do not change what the model computes. attention_dropout is one of them:
// it acts only in transformers' training mode, and the trainer's probabilities must be the sampler's.
const schema = z.looseObject({
  model_type: z.string(),
  architectures: z.array(z.string()).nullish(),
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count.max(MAX_LAYERS),
  num_attention_heads: count,
  num_key_value_heads: count,
  head_dim: count.nullish(),
  max_position_embeddings: count,
  rms_norm_eps: z.number().positive().default(1e-6),
  initializer_range: z.number().positive().default(0.02),
  tie_word_embeddings: z.boolean().default(false),
  rope_theta: z.number().positive().nullish(),
  rope_parameters: ropeForm.nullish(),
  rope_scaling: ropeForm.nullish(),
  attention_bias: z.boolean().nullish(),
  pad_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  torch_dtype: dtype.nullish(),
  dtype: dtype.nullish(),
});

type Json = z.infer<typeof schema>;

/**
 * What a config may ask for and the model does not do: the key, the values that ask for nothing, and what the others
 * ask for.
 */
const REFUSED: readonly (readonly [key: string, harmless: (value: unknown) => boolean, what: string])[] = [
  ["rope_scaling", isDefaultRope, "rope scaling"],
  ["rope_parameters", isDefaultRope, "rope scaling"],
  ["partial_rotary_factor", (value) => value === 1, "rope on a part of each head"],
  ["use_sliding_window", (value) => value === false, "sliding-window attention"],
  ["layer_types", (value) => isAll(value, "full_attention"), "layers other than full attention"],
  ["hidden_act", (value) => value === "silu", "an activation other than silu"],
  ["quantization_config", () => false, "quantised weights"],
  ["num_experts", (value) => value === 0, "a mixture of experts"],
  ["is_causal", (value) => value === true, "bidirectional attention"],
  ["use_mrope", (value) => value === false, "multimodal rope"],
  ["auto_map", () => false, "code from the model's folder"],
];

/**
 * Reads a Hugging Face `config.json` of Qwen2, Qwen2.5 or Qwen3, in the form with `rope_theta` and `torch_dtype` or the
 * newer one with `rope_parameters` and `dtype`.
 * @param where names the file in errors.
 * @throws InputError for a missing or wrong value, and for anything that the model does not do: it is refused, not
 * ignored.
 */
export function parseConfig(json: unknown, where: string): QwenConfig {
  const fail = (message: string): never => {
    throw new InputError(`${where}: ${message}`);
  };
  const name = (json as Partial<Json> | null)?.model_type;
  if (typeof name === "string" && !Object.hasOwn(ARCHITECTURES, name)) {
    fail(`model_type is "${name}"; give a dense Qwen2, Qwen2.5 or Qwen3 model (model_type qwen2 or qwen3).`);
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const [{ path, message }] = parsed.error.issues;
    return fail(`${path.join(".") || "the whole"}: ${message}. Correct it, or take the model's own config.json.`);
  }
  const raw = parsed.data;
  const architecture = raw.model_type as QwenConfig["architecture"];
  const { className, qkvBias, qkNorm } = ARCHITECTURES[architecture];

  for (const [key, harmless, what] of REFUSED) {
    const value = raw[key];
    if (value !== undefined && value !== null && !harmless(value)) {
      fail(`${key} asks for ${what} (${show(value)}), which is not supported. Choose a model without it.`);
    }
  }
  if (raw.architectures?.length && !raw.architectures.includes(className)) {
    fail(`architectures is ${show(raw.architectures)}; only ${className} is supported.`);
  }
  if ((raw.attention_bias ?? qkvBias) !== qkvBias) {
    fail(`attention_bias is ${raw.attention_bias}, but a ${architecture} model is supported only with ${qkvBias}.`);
  }

  const heads = raw.num_attention_heads;
  const kvHeads = raw.num_key_value_heads;
  const headDim = raw.head_dim ?? (architecture === "qwen3" ? QWEN3_HEAD_DIM : raw.hidden_size / heads);
  if (heads % kvHeads) fail(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}.`);
  if (!Number.isInteger(headDim))
    fail(`hidden_size ${raw.hidden_size} is not a multiple of num_attention_heads ${heads}.`);
  if (headDim % 2) fail(`head_dim ${headDim} is odd; rope turns pairs, so it must be even.`);

  const eosTokenIds = [raw.eos_token_id ?? []].flat();
  checkTokenIds("eos_token_id", eosTokenIds, raw.vocab_size, where);
  checkTokenIds("pad_token_id", [raw.pad_token_id ?? []].flat(), raw.vocab_size, where);

  return {
    architecture,
    vocabSize: raw.vocab_size,
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    layers: raw.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    maxPositions: raw.max_position_embeddings,
    rmsNormEps: raw.rms_norm_eps,
    ropeTheta:
      ropeTheta(raw) ?? fail("rope_theta (or rope_parameters.rope_theta) is missing or given twice, differently."),
    tieWordEmbeddings: raw.tie_word_embeddings,
    qkvBias,
    qkNorm,
    eosTokenIds,
    initializerRange: raw.initializer_range,
    ...(typeof raw.pad_token_id === "number" && { padTokenId: raw.pad_token_id }),
    dtype: raw.dtype ?? raw.torch_dtype ?? "float32",
  };
}

/**
 * The `config.json` of this model, for transformers (older and newest) and vLLM: where a key changed its name it stands
 * under both. `parseConfig` of it gives the same config.
 */
export function toConfigJson(config: QwenConfig): Record<string, unknown> {
  const { eosTokenIds: eos } = config;
  const isQwen3 = config.architecture === "qwen3";
  return {
    architectures: [ARCHITECTURES[config.architecture].className],
    model_type: config.architecture,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    max_position_embeddings: config.maxPositions,
    rms_norm_eps: config.rmsNormEps,
    rope_theta: config.ropeTheta,
    rope_parameters: { rope_theta: config.ropeTheta, rope_type: "default" },
    tie_word_embeddings: config.tieWordEmbeddings,
    ...(isQwen3 && { attention_bias: false }),
    attention_dropout: 0,
    hidden_act: "silu",
    initializer_range: config.initializerRange,
    sliding_window: null,
    use_sliding_window: false,
    use_cache: true,
    pad_token_id: config.padTokenId ?? null,
    eos_token_id: eos.length > 1 ? eos : (eos[0] ?? null),
    dtype: config.dtype,
    torch_dtype: config.dtype,
  };
}

/** @throws InputError where one of the ids that `key` gives is beyond the vocabulary. */
export function checkTokenIds(key: string, ids: readonly number[], vocabSize: number, where: string): void {
  const beyond = ids.find((id) => id >= vocabSize);
  if (beyond === undefined) return;
  throw new InputError(`${where}: ${key} is ${beyond}, but the model has ${vocabSize} token ids; correct it`);
}

/** The base, if all keys that give one agree. */
function ropeTheta(raw: Json): number | undefined {
  const given = [raw.rope_parameters?.rope_theta, raw.rope_scaling?.rope_theta, raw.rope_theta].filter(
    (theta) => theta !== undefined && theta !== null,
  );
  return new Set(given).size === 1 ? given[0] : undefined;
}

function isDefaultRope(value: unknown): boolean {
  const { rope_type, type, partial_rotary_factor = 1 } = value as z.infer<typeof ropeForm>;
  return (rope_type ?? type ?? "default") === "default" && partial_rotary_factor === 1;
}

function isAll(value: unknown, wanted: string): boolean {
  return Array.isArray(value) && value.every((item) => item === wanted);
}

function show(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
