import {
  type Backend,
  type DType,
  keep,
  outsideArenas,
  type ParameterSet,
  randomStream,
  type Shape,
  tensor,
  zeros,
} from "../lib/index.js";
import type { QwenConfig } from "./config.js";

/** What one parameter is: its shape, how it starts, and which Hugging Face tensors its leading axis is made of. */
export interface ParameterSpec {
  readonly name: string;
  readonly shape: Shape;
  readonly start: "normal" | "zeros" | "ones";
  /** In order; their rows add up to the parameter's. */
  readonly parts: readonly { readonly name: string; readonly rows: number }[];
}

/**
 * All parameters of a model. The q, k, v projections (with their biases) and the gate and up projections are one
 * parameter each, under vLLM's names `qkv_proj` and `gate_up_proj`; all others have Hugging Face's names.
 */
export function parameterSpecs(config: QwenConfig): ParameterSpec[] {
  const { hiddenSize: d, intermediateSize, heads, kvHeads, headDim, vocabSize } = config;
  const single = (name: string, shape: Shape, start: ParameterSpec["start"]): ParameterSpec => ({
    name,
    shape,
    start,
    parts: [{ name, rows: shape[0] }],
  });
  const layer = (i: number): ParameterSpec[] => {
    const prefix = `model.layers.${i}`;
    const attention = `${prefix}.self_attn`;
    const qkv = (kind: "weight" | "bias", columns: Shape): ParameterSpec => ({
      name: `${attention}.qkv_proj.${kind}`,
      shape: [(heads + 2 * kvHeads) * headDim, ...columns],
      start: kind === "weight" ? "normal" : "zeros",
      parts: [
        { name: `${attention}.q_proj.${kind}`, rows: heads * headDim },
        { name: `${attention}.k_proj.${kind}`, rows: kvHeads * headDim },
        { name: `${attention}.v_proj.${kind}`, rows: kvHeads * headDim },
      ],
    });
    return [
      single(`${prefix}.input_layernorm.weight`, [d], "ones"),
      qkv("weight", [d]),
      ...(config.qkvBias ? [qkv("bias", [])] : []),
      ...(config.qkNorm
        ? ["q_norm", "k_norm"].map((norm) => single(`${attention}.${norm}.weight`, [headDim], "ones"))
        : []),
      single(`${attention}.o_proj.weight`, [d, heads * headDim], "normal"),
      single(`${prefix}.post_attention_layernorm.weight`, [d], "ones"),
      {
        name: `${prefix}.mlp.gate_up_proj.weight`,
        shape: [2 * intermediateSize, d],
        start: "normal",
        parts: ["gate_proj", "up_proj"].map((part) => ({
          name: `${prefix}.mlp.${part}.weight`,
          rows: intermediateSize,
        })),
      },
      single(`${prefix}.mlp.down_proj.weight`, [d, intermediateSize], "normal"),
    ];
  };
  return [
    single("model.embed_tokens.weight", [vocabSize, d], "normal"),
    ...Array.from({ length: config.layers }, (_, i) => layer(i)).flat(),
    single("model.norm.weight", [d], "ones"),
    ...(config.tieWordEmbeddings ? [] : [single("lm_head.weight", [vocabSize, d], "normal")]),
  ];
}

export interface InitializeOptions {
  readonly backend: Backend;
  readonly seed: number;
  readonly dtype?: DType;
  /** Default: the config's `initializerRange`. */
  readonly embeddingRange?: number;
}

/**
 * Fresh parameters: matrices normal with standard deviation `initializerRange`, norms one, biases zero. `embeddingRange`
 * is the embedding's own standard deviation; a small model with tied embeddings learns to copy far sooner at 0.3 than at
 * the 0.02 that suits large ones.
 */
export function initializeParameters(
  config: QwenConfig,
  { backend, seed, dtype = "f32", embeddingRange = config.initializerRange }: InitializeOptions,
): ParameterSet {
  return outsideArenas(
    () =>
      new Map(
        parameterSpecs(config).map(({ name, shape, start }, i) => {
          const parameter = keep(zeros(shape, { backend, dtype }));
          const range = name === "model.embed_tokens.weight" ? embeddingRange : config.initializerRange;
          if (start !== "zeros") {
            const random = randomStream(seed, i);
            const value = start === "ones" ? () => 1 : () => random.normal() * range;
            const values = Float32Array.from({ length: parameter.size }, value);
            const source = tensor(values, { backend, dtype, shape });
            parameter.assign(source);
            source.dispose();
          }
          parameter.requiresGrad = true;
          return [name, parameter];
        }),
      ),
  );
}

/** A copy of a parameter set with storage of its own, for a reward model or a frozen reference. */
export function cloneParameters(parameters: ParameterSet, { frozen = false } = {}): ParameterSet {
  return outsideArenas(
    () =>
      new Map(
        [...parameters].map(([name, parameter]) => {
          const copy = keep(zeros(parameter.shape, { backend: parameter.backend, dtype: parameter.dtype }));
          copy.assign(parameter);
          copy.requiresGrad = !frozen;
          return [name, copy];
        }),
      ),
  );
}

/** Number of weights. */
export function countParameters(parameters: ParameterSet): number {
  return [...parameters.values()].reduce((sum, parameter) => sum + parameter.size, 0);
}

/** Frees a parameter set and its gradients. */
export function disposeParameters(parameters: ParameterSet): void {
  for (const parameter of parameters.values()) parameter.dispose();
}
