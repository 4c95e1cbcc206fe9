import {
  AdamW,
  type AdamWOptions,
  Arena,
  backward,
  clipScale,
  gradNorm,
  linear,
  noGrad,
  type ParameterSet,
  type Tensor,
  tensor,
} from "../lib/index.js";
import { pack, type Qwen } from "../models/index.js";
import {
  addMetrics,
  type Loss,
  type LossResult,
  type Outputs,
  type RowGradient,
  type TokenRange,
} from "./objective/index.js";

/** A sequence to train on or to score. */
export interface LearnerRow {
  readonly tokens: ArrayLike<number>;
  /** The tokens whose log-probabilities are wanted, usually the assistant's turns. Token 0 cannot be among them. */
  readonly turns: readonly TokenRange[];
}

export interface LearnerOptions extends AdamWOptions {
  /** Global gradient norm above which gradients are scaled down. Default 1. */
  readonly gradClip?: number;
  /** Most tokens in one forward pass; whole rows only. Changes memory and speed, never the result. Default 8192. */
  readonly microBatchTokens?: number;
  /** Logits are divided by it before the softmax. Default 1. */
  readonly temperature?: number;
  /**
   * [1, hiddenSize]: makes the model a critic. Its outputs are then the values of the states before the scored tokens, and
   * no log-probabilities.
   */
  readonly valueHead?: Tensor;
}

/** What one optimizer step did. */
export interface StepReport {
  readonly gradNorm: number;
  /** The gradient was not finite: it was dropped and the weights are as before. */
  readonly skipped: boolean;
}

/**
 * A model with its optimizer: the verbs `forward`, `forwardBackward` and `optimStep`. It knows nothing of any algorithm;
 * a loss reads per-token log-probabilities on the host and returns their gradient.
 */
export class Learner {
  readonly optimizer: AdamW;
  /** The model's parameters and the value head. */
  readonly parameters: ParameterSet;
  readonly valueHead: Tensor | undefined;
  readonly #options: Required<Pick<LearnerOptions, "gradClip" | "microBatchTokens" | "temperature">>;

  constructor(
    readonly model: Qwen,
    options: LearnerOptions = {},
  ) {
    const { gradClip = 1, microBatchTokens = 8192, temperature = 1, valueHead, ...adamw } = options;
    this.#options = { gradClip, microBatchTokens, temperature };
    this.valueHead = valueHead;
    this.parameters = valueHead ? new Map([...model.parameters, [VALUE_HEAD, valueHead]]) : model.parameters;
    this.optimizer = new AdamW(this.parameters, adamw);
  }

  /** Log-probabilities and entropy at the rows' scored tokens, or values, without gradient; see `forwardRows`. */
  forward(rows: readonly LearnerRow[]): Promise<Outputs[]> {
    return forwardRows(this.model, rows, { ...this.#options, valueHead: this.valueHead });
  }

  /**
   * Adds the loss's gradient over `rows`, one whole mini-batch, to the parameters' gradients. How the rows are cut into
   * micro-batches does not change the result.
   */
  async forwardBackward<Row>(rows: readonly (Row & LearnerRow)[], loss: Loss<Row>): Promise<LossResult["metrics"]> {
    if (loss.needs.values && !this.valueHead)
      throw new Error(`loss ${loss.name}: it needs values, and this model has no value head`);
    const bound = loss.bind(rows);
    const all = rows.map((_, i) => i);
    const fixed = loss.scope === "batch" ? bound(await this.forward(rows), all) : undefined;
    const metrics: Record<string, number> = {};
    if (fixed) addMetrics(metrics, fixed.metrics);
    for (const indices of microBatches(rows, this.#options.microBatchTokens)) {
      using arena = new Arena();
      const group = indices.map((i) => rows[i]);
      const pass = arena.run(() => forwardPass(this.model, group, this.#options.temperature, this.valueHead));
      if (!pass) continue;
      const result = fixed
        ? { gradients: indices.map((i) => fixed.gradients[i]), metrics: {} }
        : bound(await pass.outputs(), indices);
      addMetrics(metrics, result.metrics);
      const used = pass.tensors.flatMap(({ name, tensor: output }) => {
        const values = pass.gather(result.gradients.map((gradient) => gradient[name]));
        return values ? [{ output, values }] : [];
      });
      arena.run(() => {
        backward(
          used.map(({ output }) => output),
          used.map(({ output, values }) => tensor(values, { backend: this.model.backend, dtype: output.dtype })),
        );
      });
    }
    return metrics;
  }

  /** Applies and clears the gradients, clipped to the global norm. */
  async optimStep({ lr }: { readonly lr?: number } = {}): Promise<StepReport> {
    const norm = await gradNorm(this.parameters);
    const skipped = !Number.isFinite(norm);
    if (!skipped) this.optimizer.step({ lr, gradScale: clipScale(norm, this.#options.gradClip) });
    this.optimizer.zeroGrad();
    return { gradNorm: norm, skipped };
  }
}

/** The name of a critic's head among its parameters. */
export const VALUE_HEAD = "value_head.weight";

/**
 * Log-probabilities and entropy of each row's scored tokens, [tokens] with zeros elsewhere; no gradient.
 * Entry t is about token t given the tokens before it. With a value head: values instead.
 */
export async function forwardRows(
  model: Qwen,
  rows: readonly LearnerRow[],
  {
    microBatchTokens = 8192,
    temperature = 1,
    valueHead,
  }: Pick<LearnerOptions, "microBatchTokens" | "temperature" | "valueHead"> = {},
): Promise<Outputs[]> {
  const outputs: Outputs[] = [];
  for (const indices of microBatches(rows, microBatchTokens)) {
    using arena = new Arena();
    const group = indices.map((i) => rows[i]);
    const pass = arena.run(() => noGrad(() => forwardPass(model, group, temperature, valueHead)));
    const part = pass ? await pass.outputs() : group.map(({ tokens }) => emptyOutputs(tokens.length, valueHead));
    indices.forEach((row, i) => {
      outputs[row] = part[i];
    });
  }
  return outputs;
}

function emptyOutputs(tokens: number, valueHead?: Tensor): RowGradient {
  const logprobs = new Float64Array(tokens);
  return valueHead ? { logprobs, values: new Float64Array(tokens) } : { logprobs, entropy: new Float64Array(tokens) };
}

/** Runs of row numbers of at most `budget` tokens each, or one longer row. */
function microBatches(rows: readonly LearnerRow[], budget: number): number[][] {
  const groups: number[][] = [];
  let used = Number.POSITIVE_INFINITY;
  rows.forEach(({ tokens }, i) => {
    if (used + tokens.length > budget) {
      groups.push([]);
      used = 0;
    }
    groups.at(-1)!.push(i);
    used += tokens.length;
  });
  return groups;
}

/** One forward pass and the way from its flat outputs to rows and back. Undefined where no token is scored. */
function forwardPass(model: Qwen, rows: readonly LearnerRow[], temperature: number, valueHead?: Tensor) {
  const inputs = rows.map(({ tokens, turns }) =>
    Array.prototype.slice.call(tokens, 0, Math.max(0, ...turns.map(({ end }) => end - 1))),
  );
  const batch = pack(inputs, model.backend);
  const before: number[] = [];
  const targets: number[] = [];
  const places: { row: number; token: number }[] = [];
  rows.forEach(({ tokens, turns }, row) => {
    for (const { start, end } of turns) {
      if (start < 1) throw new Error("forward: token 0 has nothing before it and cannot be scored; start turns at 1");
      for (let token = start; token < end; token++) {
        before.push(batch.offsets[row] + token - 1);
        targets.push(tokens[token]);
        places.push({ row, token });
      }
    }
  });
  if (places.length === 0) return undefined;
  const ints = (values: number[]) => tensor(Int32Array.from(values), { backend: model.backend, dtype: "i32" });
  const hidden = model.forward(batch).gatherRows(ints(before));
  const tensors = outputTensors(model, hidden, ints(targets), temperature, valueHead);
  return {
    tensors,
    /** The host's view, one entry per row. */
    async outputs(): Promise<Outputs[]> {
      const read = await Promise.all(tensors.map(async ({ name, tensor }) => ({ name, values: await tensor.data() })));
      const out = rows.map(({ tokens }) => emptyOutputs(tokens.length, valueHead));
      for (const { name, values } of read) {
        places.forEach(({ row, token }, i) => {
          out[row][name]![token] = values[i];
        });
      }
      return out;
    },
    /** Per-token values of the rows, flat as the outputs are; undefined where no row has any. */
    gather(values: readonly (Float64Array | undefined)[]): Float64Array | undefined {
      if (values.every((value) => !value)) return undefined;
      return Float64Array.from(places, ({ row, token }) => values[row]?.[token] ?? 0);
    },
  };
}

/** What a forward pass computes at the scored tokens, flat. */
function outputTensors(
  model: Qwen,
  hidden: Tensor,
  targets: Tensor,
  temperature: number,
  valueHead: Tensor | undefined,
): { name: keyof RowGradient; tensor: Tensor }[] {
  if (valueHead) {
    const values = linear(hidden, valueHead).reshape([hidden.shape[0]]);
    return [{ name: "values", tensor: values.dtype === "f64" ? values : values.to("f32") }];
  }
  const { logprobs, entropy } = model.logprobs(hidden, targets, temperature);
  return [
    { name: "logprobs", tensor: logprobs },
    { name: "entropy", tensor: entropy },
  ];
}
