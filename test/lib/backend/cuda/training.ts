import {
  AdamW,
  Arena,
  arena,
  type Backend,
  backward,
  clipScale,
  type DType,
  gradNorm,
  noGrad,
  randomStream,
  type Tensor,
  tensor,
} from "../../../../lib/index.js";
import { initializeParameters, pack, Qwen, type QwenConfig } from "../../../../models/index.js";
import { tinyConfig } from "../../../models/tiny.js";

/** Two layers of width 64, two query heads to a key head, tied embeddings. */
export const smallConfig: QwenConfig = {
  ...tinyConfig,
  architecture: "qwen2",
  vocabSize: 211,
  hiddenSize: 64,
  intermediateSize: 160,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  tieWordEmbeddings: true,
  qkvBias: true,
  qkNorm: false,
  initializerRange: 0.1,
};

/** How the gradient of a batch comes about. The result should not depend on it. */
export interface Variant {
  /** All sequences in one pass; each in a pass of its own under one backward; or with a backward each. */
  readonly split: "packed" | "one by one" | "accumulated";
  readonly recompute: boolean;
  /** Relative error that is put into the gradient of one matrix: what a check has to notice. */
  readonly gradientError: number;
}

const plain: Variant = { split: "packed", recompute: false, gradientError: 0 };
const SEQUENCES = 8;
const WRONG = "model.layers.0.mlp.down_proj.weight";

/** Eight sequences of 3 to 20 tokens in which a token mostly determines the next. */
export function sequencesOf(step: number): number[][] {
  const random = randomStream(17, step);
  return Array.from({ length: SEQUENCES }, () => {
    let id = random.int(smallConfig.vocabSize);
    return Array.from({ length: 3 + random.int(18) }, () => {
      id = random.uniform() < 0.1 ? random.int(smallConfig.vocabSize) : (5 * id + 3) % smallConfig.vocabSize;
      return id;
    });
  });
}

/** A small model in training, from weights that a seed determines. */
export class SmallRun {
  readonly model: Qwen;
  readonly optimizer: AdamW;
  readonly #variant: Variant;

  constructor(
    readonly backend: Backend,
    variant: Partial<Variant> = {},
    readonly dtype: DType = "f32",
  ) {
    this.#variant = { ...plain, ...variant };
    this.model = new Qwen(smallConfig, initializeParameters(smallConfig, { backend, seed: 5, dtype }));
    this.model.recompute = this.#variant.recompute;
    this.optimizer = new AdamW(this.model.parameters, { lr: 3e-3, betas: [0.5, 0.9], weightDecay: 0.01 });
  }

  /** Adds the gradient of the mean negative log-likelihood of a step's batch, without waiting for the device. */
  backward(step: number): void {
    using owner = new Arena();
    const groups = this.#groups(step);
    const losses = () => groups.map((group) => owner.run(() => this.#loss(group, sequencesOf(step))));
    if (this.#variant.split === "accumulated") {
      for (const group of groups) owner.run(() => this.#loss(group, sequencesOf(step)).backward());
    } else {
      owner.run(() => backward(losses()));
    }
    if (this.#variant.gradientError !== 0) {
      const { grad } = this.model.parameters.get(WRONG)!;
      arena(() => noGrad(() => grad!.assign(grad!.mul(1 + this.#variant.gradientError))));
    }
  }

  /** The gradients that `backward` left, applied. */
  async update(): Promise<void> {
    const norm = await gradNorm(this.model.parameters);
    this.optimizer.step({ gradScale: clipScale(norm, 100) });
    this.optimizer.zeroGrad();
  }

  async step(step: number): Promise<void> {
    this.backward(step);
    await this.update();
  }

  /** Mean negative log-likelihood of a step's batch, summed on the host in f64. */
  async loss(step: number): Promise<number> {
    let [sum, count] = [0, 0];
    for (const group of this.#groups(step)) {
      using owner = new Arena();
      const values = await owner.run(() => noGrad(() => this.#logprobs(group))).data();
      let at = 0;
      for (const { length } of group) {
        for (let i = 0; i < length - 1; i++) sum -= values[at + i];
        count += length - 1;
        at += length;
      }
    }
    return sum / count;
  }

  /** Takes over another run's weights and optimizer state, from whatever device. */
  async follow(other: SmallRun): Promise<void> {
    const copy = async (source: Tensor) => {
      const { dtype, shape } = source;
      return tensor(await source.data(), { backend: this.backend, dtype, shape });
    };
    for (const [name, parameter] of this.model.parameters) {
      using source = await copy(other.model.parameters.get(name)!);
      parameter.assign(source);
    }
    const { step, tensors } = other.optimizer.state();
    const copies = await Promise.all([...tensors].map(async ([name, source]) => [name, await copy(source)] as const));
    this.optimizer.load({ step, tensors: new Map(copies) });
    for (const [, source] of copies) source.dispose();
  }

  dispose(): void {
    this.optimizer.zeroGrad();
    this.optimizer.dispose();
    for (const parameter of this.model.parameters.values()) parameter.dispose();
  }

  #groups(step: number): number[][][] {
    const sequences = sequencesOf(step);
    return this.#variant.split === "packed" ? [sequences] : sequences.map((sequence) => [sequence]);
  }

  /** [tokens]: of the next token in the same sequence; the last of each sequence means nothing. */
  #logprobs(group: readonly number[][]): Tensor {
    const targets = group.flatMap((sequence) => [...sequence.slice(1), 0]);
    const hidden = this.model.forward(pack(group, this.backend));
    return this.model.logprobs(hidden, tensor(Int32Array.from(targets), { backend: this.backend, dtype: "i32" }))
      .logprobs;
  }

  /** A group's share of the batch's mean negative log-likelihood. */
  #loss(group: readonly number[][], batch: readonly number[][]): Tensor {
    const total = batch.reduce((sum, { length }) => sum + length - 1, 0);
    const weights = group.flatMap(({ length }) => [...new Array<number>(length - 1).fill(-1 / total), 0]);
    return this.#logprobs(group)
      .mul(tensor(weights, { backend: this.backend }))
      .sum();
  }
}
