import {
  arena,
  attention,
  type Backend,
  checkpoint,
  type DType,
  embedding,
  linear,
  linearLogprob,
  linearWide,
  normSwiglu,
  type PagedContext,
  type ParameterSet,
  pagedAttention,
  type QkvWeights,
  qkNorm,
  qkvToCache,
  type Rotation,
  rmsNorm,
  rope,
  slotAttention,
  type Tensor,
} from "../lib/index.js";
import type { LogprobAndEntropy } from "../lib/ops/linearLogprob.js";
import type { PackedBatch } from "./batch.js";
import type { QwenConfig } from "./config.js";
import type { CacheStep } from "./kvCache.js";

/**
 * Qwen2, Qwen2.5 and Qwen3, dense. A model is a config and a set of parameters; everything else is a function of a
 * packed batch. The file reads from top to bottom as the network does.
 */
export class Qwen {
  /** Recompute each layer in backward instead of keeping its activations. */
  recompute = false;

  constructor(
    readonly config: QwenConfig,
    readonly parameters: ParameterSet,
  ) {}

  get backend(): Backend {
    return this.#parameter("model.norm.weight").backend;
  }

  /** Element type of weights and activations. */
  get dtype(): DType {
    return this.#parameter("model.norm.weight").dtype;
  }

  /** Hidden states [tokens, hiddenSize] after the final norm, of whole sequences; differentiable. */
  forward(batch: PackedBatch): Tensor {
    return this.#run(batch, (i, x) => {
      const layer = (input: Tensor) => this.#layer(i, input, batch);
      return this.recompute ? checkpoint(layer, x) : arena(() => layer(x));
    });
  }

  /** Hidden states of the newest tokens, which join their sequences' cached past. No gradient. */
  forwardCached(batch: PackedBatch, step: CacheStep): Tensor {
    const rotation = this.#rotation();
    const isFresh = !("table" in step.context) && hasNoPast(step.context);
    return this.#run(batch, (i, x) => arena(() => this.#cachedLayer(i, x, batch, step, rotation, isFresh)));
  }

  /** Logits [rows, vocabSize], f32, of hidden states [rows, hiddenSize]; no gradient. */
  logits(hidden: Tensor): Tensor {
    return linearWide(hidden, this.#head());
  }

  /** Log-probability of a target for each hidden state, and the entropy there; differentiable. */
  logprobs(hidden: Tensor, targets: Tensor, temperature = 1): LogprobAndEntropy {
    return linearLogprob(hidden, this.#head(), targets, temperature);
  }

  #run(batch: PackedBatch, layer: (i: number, x: Tensor) => Tensor): Tensor {
    let x = embedding(this.#parameter("model.embed_tokens.weight"), batch.ids, this.config.padTokenId);
    for (let i = 0; i < this.config.layers; i++) x = layer(i, x);
    return rmsNorm(x, this.#parameter("model.norm.weight"), this.config.rmsNormEps);
  }

  #layer(i: number, x: Tensor, batch: PackedBatch): Tensor {
    const { config } = this;
    const { norm, eps, weight, bias, headNorms } = this.#qkvWeights(i);
    let qkv = linear(rmsNorm(x, norm, eps), weight, { bias });
    if (headNorms) qkv = qkNorm(qkv, headNorms.q, headNorms.k, config, eps);
    qkv = rope(qkv, batch.positions, this.#rotation());
    const attended = attention(qkv, batch.offsets, config);
    const mixed = linear(attended, this.#of(i, "self_attn.o_proj.weight"), { residual: x });
    return this.#mlp(i, mixed);
  }

  /** The same, with the past in a cache: on cuda five kernels for up to 8 tokens, eight for up to 1,024. */
  #cachedLayer(
    i: number,
    x: Tensor,
    { positions, offsets }: PackedBatch,
    { layers, rows, context }: CacheStep,
    rotation: Rotation,
    isFresh: boolean,
  ): Tensor {
    const { config } = this;
    const placement = { positions, rows };
    const qkv = qkvToCache(x, this.#qkvWeights(i), placement, rotation, layers[i], isFresh);
    const attended =
      "table" in context
        ? slotAttention(qkv, layers[i], context, config)
        : isFresh
          ? attention(qkv, offsets, config)
          : pagedAttention(qkv, layers[i], context, config);
    const mixed = linear(attended, this.#of(i, "self_attn.o_proj.weight"), { residual: x });
    return this.#mlp(i, mixed);
  }

  #mlp(i: number, x: Tensor): Tensor {
    const norm = this.#of(i, "post_attention_layernorm.weight");
    const activated = normSwiglu(x, norm, this.config.rmsNormEps, this.#of(i, "mlp.gate_up_proj.weight"));
    return linear(activated, this.#of(i, "mlp.down_proj.weight"), { residual: x });
  }

  #rotation(): Rotation {
    const { heads, kvHeads, headDim, maxPositions, ropeTheta: theta } = this.config;
    return { heads, kvHeads, headDim, maxPositions, theta };
  }

  #qkvWeights(i: number): QkvWeights {
    const { qkvBias, qkNorm, rmsNormEps: eps } = this.config;
    const own = (name: string) => this.#of(i, `self_attn.${name}`);
    return {
      norm: this.#of(i, "input_layernorm.weight"),
      eps,
      weight: own("qkv_proj.weight"),
      bias: qkvBias ? own("qkv_proj.bias") : undefined,
      headNorms: qkNorm ? { q: own("q_norm.weight"), k: own("k_norm.weight") } : undefined,
    };
  }

  #of(layer: number, name: string): Tensor {
    return this.#parameter(`model.layers.${layer}.${name}`);
  }

  #head(): Tensor {
    return this.#parameter(this.config.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  }

  #parameter(name: string): Tensor {
    const parameter = this.parameters.get(name);
    if (!parameter) throw new Error(`Qwen: the parameter set lacks ${name}`);
    return parameter;
  }
}

/** Whether all tokens of all sequences are new. */
function hasNoPast({ offsets, lengths }: PagedContext): boolean {
  return lengths.every((length, s) => length === offsets[s + 1] - offsets[s]);
}
