import { readFile } from "node:fs/promises";
import test from "ava";
import fc from "fast-check";
import { InputError } from "../../lib/errors.js";
import { parseConfig, type QwenConfig, toConfigJson } from "../../models/config.js";
import { fixture } from "../support.js";

const readJson = async (model: string) => JSON.parse(await readFile(fixture(model, "config.json"), "utf8"));

/** The older form, as Qwen2.5-3B-Instruct is published. */
const older = {
  architectures: ["Qwen2ForCausalLM"],
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151645,
  hidden_act: "silu",
  hidden_size: 2048,
  initializer_range: 0.02,
  intermediate_size: 11008,
  max_position_embeddings: 32768,
  max_window_layers: 70,
  model_type: "qwen2",
  num_attention_heads: 16,
  num_hidden_layers: 36,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000.0,
  sliding_window: 32768,
  tie_word_embeddings: true,
  torch_dtype: "bfloat16",
  transformers_version: "4.43.1",
  use_cache: true,
  use_sliding_window: false,
  vocab_size: 151936,
};

test("the older form: rope_theta, torch_dtype, a sliding window that is off", (t) => {
  t.deepEqual(parseConfig(older, "config.json"), {
    architecture: "qwen2",
    vocabSize: 151936,
    hiddenSize: 2048,
    intermediateSize: 11008,
    layers: 36,
    heads: 16,
    kvHeads: 2,
    headDim: 128,
    maxPositions: 32768,
    rmsNormEps: 1e-6,
    ropeTheta: 1e6,
    tieWordEmbeddings: true,
    qkvBias: true,
    qkNorm: false,
    eosTokenIds: [151645],
    initializerRange: 0.02,
    dtype: "bfloat16",
  });
});

test("the newer form: rope_parameters, dtype, layer_types", async (t) => {
  const qwen2 = parseConfig(await readJson("tiny-qwen2"), "config.json");
  t.like(qwen2, { architecture: "qwen2", qkvBias: true, qkNorm: false, headDim: 16, ropeTheta: 1e6, dtype: "float32" });
  const qwen3 = parseConfig(await readJson("tiny-qwen3"), "config.json");
  t.like(qwen3, { architecture: "qwen3", qkvBias: false, qkNorm: true, headDim: 32, tieWordEmbeddings: false });
  t.like(parseConfig(await readJson("small-qwen2-hd128"), "config.json"), {
    headDim: 128,
    layers: 2,
    eosTokenIds: [1],
  });
});

test("several end-of-text tokens, or none", (t) => {
  t.deepEqual(parseConfig({ ...older, eos_token_id: [151645, 151643] }, "c").eosTokenIds, [151645, 151643]);
  t.deepEqual(parseConfig({ ...older, eos_token_id: null }, "c").eosTokenIds, []);
});

test("asking for nothing special is accepted: null or default scaling, dropout", (t) => {
  for (const extra of [
    { rope_scaling: null },
    { rope_scaling: { type: "default" } },
    { rope_parameters: { rope_theta: 1e6, rope_type: "default" } },
    { quantization_config: null },
    { attention_dropout: 0.1 },
  ]) {
    t.deepEqual(parseConfig({ ...older, ...extra }, "c"), parseConfig(older, "c"));
  }
});

const refusals: [object | null, RegExp][] = [
  [{ rope_scaling: { type: "yarn", factor: 4 } }, /rope_scaling asks for rope scaling .*yarn/],
  [{ rope_parameters: { rope_type: "linear", rope_theta: 1e6, factor: 2 } }, /rope_parameters asks for rope scaling/],
  [{ rope_parameters: { rope_theta: 1e6, partial_rotary_factor: 0.5 } }, /rope_parameters asks for/],
  [{ rope_parameters: { rope_theta: 1e4 } }, /rope_theta .* given twice, differently/],
  [{ rope_theta: undefined }, /rope_theta .* is missing/],
  [{ use_sliding_window: true }, /use_sliding_window asks for sliding-window attention/],
  [{ layer_types: ["full_attention", "sliding_attention"] }, /layer_types asks for/],
  [{ hidden_act: "gelu" }, /hidden_act asks for an activation other than silu \("gelu"\)/],
  [{ quantization_config: { quant_method: "gptq" } }, /quantization_config asks for quantised weights/],
  [{ num_experts: 60 }, /num_experts asks for a mixture of experts/],
  [{ is_causal: false }, /bidirectional/],
  [{ auto_map: { AutoModel: "modeling.Own" } }, /code from the model's folder/],
  [{ model_type: "llama" }, /model_type is "llama"; give a dense Qwen2/],
  [{ model_type: "qwen2_moe" }, /model_type is "qwen2_moe"/],
  [{ model_type: "toString" }, /model_type is "toString"/],
  [{ architectures: ["Qwen2ForSequenceClassification"] }, /only Qwen2ForCausalLM is supported/],
  [{ attention_bias: false }, /attention_bias is false/],
  [{ model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], attention_bias: true }, /attention_bias is true/],
  [{ num_key_value_heads: 3 }, /16 is not a multiple of num_key_value_heads 3/],
  [{ hidden_size: 2056 }, /hidden_size 2056 is not a multiple/],
  [{ head_dim: 63 }, /head_dim 63 is odd/],
  [{ num_hidden_layers: 0 }, /num_hidden_layers: /],
  [{ vocab_size: "many" }, /vocab_size: /],
  [{ hidden_size: undefined }, /hidden_size: /],
  [{ torch_dtype: "float8_e4m3fn" }, /torch_dtype: /],
  [{ eos_token_id: [-1] }, /eos_token_id/],
  [{ eos_token_id: [1, 151936] }, /eos_token_id is 151936, but the model has 151936 token ids; correct it/],
  [{ pad_token_id: 2 ** 40 }, /pad_token_id is 1099511627776, but the model has 151936 token ids/],
  [{ num_hidden_layers: 1e9 }, /num_hidden_layers: .*1000/],
  [null, /the whole: /],
];
for (const [change, message] of refusals) {
  test(`refused: ${JSON.stringify(change)} as ${message.source}`, (t) => {
    const json = change && { ...older, ...change };
    const error = t.throws(() => parseConfig(json, "models/x/config.json"), { instanceOf: InputError, message });
    t.regex(error.message, /^models\/x\/config\.json: [^\n]+$/);
  });
}

test("toConfigJson and back is the same config", (t) => {
  const size = fc.integer({ min: 1, max: 4096 });
  const config: fc.Arbitrary<QwenConfig> = fc
    .record({
      isQwen3: fc.boolean(),
      vocabSize: size,
      intermediateSize: size,
      hiddenSize: size,
      layers: size,
      kvHeads: size,
      groups: size,
      pairs: size,
      maxPositions: size,
      rmsNormEps: fc.double({ min: 1e-9, max: 1e-3, noNaN: true }),
      ropeTheta: fc.double({ min: 1, max: 1e8, noNaN: true }),
      tieWordEmbeddings: fc.boolean(),
      eosTokenIds: fc.array(fc.nat(4095)),
      initializerRange: fc.constantFrom(0.02, 0.08),
      dtype: fc.constantFrom("float32" as const, "bfloat16" as const, "float16" as const),
    })
    .map(({ isQwen3, groups, pairs, ...rest }) => ({
      ...rest,
      layers: Math.ceil(rest.layers / 8),
      eosTokenIds: rest.eosTokenIds.map((id) => id % rest.vocabSize),
      architecture: isQwen3 ? ("qwen3" as const) : ("qwen2" as const),
      qkvBias: !isQwen3,
      qkNorm: isQwen3,
      heads: rest.kvHeads * groups,
      headDim: 2 * pairs,
    }));
  fc.assert(
    fc.property(config, (config) => {
      t.deepEqual(parseConfig(JSON.parse(JSON.stringify(toConfigJson(config))), "config.json"), config);
    }),
  );
});

test("any JSON is parsed or refused with an InputError", (t) => {
  const odd = fc.dictionary(
    fc.constantFrom(...Object.keys(older), "rope_scaling", "layer_types", "head_dim"),
    fc.jsonValue(),
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.jsonValue(),
        odd.map((change) => ({ ...older, ...change })),
      ),
      (json) => {
        try {
          parseConfig(json, "config.json");
        } catch (error) {
          if (!(error instanceof InputError)) throw error;
        }
      },
    ),
  );
  t.pass();
});
