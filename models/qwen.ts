import {
  arena,
  attention,
  type Backend,
  checkpoint,
  type DType,
  embedding,
  linear,
  linearLogprob,
  linearSwiglu,
  linearWide,
  type ParameterSet,
  pagedAttention,
  qkNorm,
  rmsNorm,
  rope,
  setRows,
  slotAttention,
  type Tensor,
} from "../lib/index.js";
import type { LogprobAndEntropy } from "../lib/ops/linearLogprob.js";
import type { PackedBatch } from "./batch.js";
import type { QwenConfig } from "./config.js";
import type { CacheStep } from "./kvCache.js";

/** How the newest tokens of a layer look at their past: fused projection [tokens, width] → [tokens, heads·headDim]. */
type Attend = (qkv: Tensor, layer: number) => Tensor;

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
    return this.#run(batch, (qkv) => attention(qkv, batch.offsets, this.config), this.recompute);
  }

  /** Hidden states of the newest tokens, which join their sequences' cached past. No gradient. */
  forwardCached(batch: PackedBatch, step: CacheStep): Tensor {
    const { heads, kvHeads, headDim } = this.config;
    return this.#run(batch, (qkv, layer) => {
      const cache = step.layers[layer];
      setRows(cache, step.rows, qkv.slice(1, heads * headDim, (heads + 2 * kvHeads) * headDim));
      const { context } = step;
      return "table" in context
        ? slotAttention(qkv, cache, context, this.config)
        : pagedAttention(qkv, cache, context, this.config);
    });
  }

  /** Logits [rows, vocabSize], f32, of hidden states [rows, hiddenSize]; no gradient. */
  logits(hidden: Tensor): Tensor {
    return linearWide(hidden, this.#head());
  }

  /** Log-probability of a target for each hidden state, and the entropy there; differentiable. */
  logprobs(hidden: Tensor, targets: Tensor, temperature = 1): LogprobAndEntropy {
    return linearLogprob(hidden, this.#head(), targets, temperature);
  }

  #run(batch: PackedBatch, attend: Attend, recompute = false): Tensor {
    let x = embedding(this.#parameter("model.embed_tokens.weight"), batch.ids, this.config.padTokenId);
    for (let i = 0; i < this.config.layers; i++) {
      const layer = (input: Tensor) => this.#layer(i, input, batch, attend);
      const input = x;
      x = recompute ? checkpoint(layer, input) : arena(() => layer(input));
    }
    return rmsNorm(x, this.#parameter("model.norm.weight"), this.config.rmsNormEps);
  }

  #layer(i: number, x: Tensor, batch: PackedBatch, attend: Attend): Tensor {
    const { config } = this;
    const at = (name: string) => this.#parameter(`model.layers.${i}.${name}`);
    let h = rmsNorm(x, at("input_layernorm.weight"), config.rmsNormEps);
    const bias = config.qkvBias ? at("self_attn.qkv_proj.bias") : undefined;
    let qkv = linear(h, at("self_attn.qkv_proj.weight"), { bias });
    if (config.qkNorm) {
      qkv = qkNorm(qkv, at("self_attn.q_norm.weight"), at("self_attn.k_norm.weight"), config, config.rmsNormEps);
    }
    qkv = rope(qkv, batch.positions, { ...config, theta: config.ropeTheta });
    const mixed = linear(attend(qkv, i), at("self_attn.o_proj.weight"), { residual: x });
    h = rmsNorm(mixed, at("post_attention_layernorm.weight"), config.rmsNormEps);
    const activated = linearSwiglu(h, at("mlp.gate_up_proj.weight"));
    return linear(activated, at("mlp.down_proj.weight"), { residual: mixed });
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
