import {
  AdamW,
  type AdamWOptions,
  Arena,
  backward,
  clipScale,
  gradNorm,
  noGrad,
  type Tensor,
  tensor,
} from "../lib/index.js";
import { pack, type Qwen } from "../models/index.js";
import { addMetrics, type Loss, type LossResult, type Outputs, type TokenRange } from "./objective/index.js";

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
  readonly #options: Required<Pick<LearnerOptions, "gradClip" | "microBatchTokens" | "temperature">>;

  constructor(
    readonly model: Qwen,
    options: LearnerOptions = {},
  ) {
    const { gradClip = 1, microBatchTokens = 8192, temperature = 1, ...adamw } = options;
    this.#options = { gradClip, microBatchTokens, temperature };
    this.optimizer = new AdamW(model.parameters, adamw);
  }

  /** Log-probabilities and entropy at the rows' scored tokens, without gradient; see `forwardRows`. */
  forward(rows: readonly LearnerRow[]): Promise<Outputs[]> {
    return forwardRows(this.model, rows, this.#options);
  }

  /**
   * Adds the loss's gradient over `rows`, one whole mini-batch, to the parameters' gradients. How the rows are cut into
   * micro-batches does not change the result.
   */
  async forwardBackward<Row>(rows: readonly (Row & LearnerRow)[], loss: Loss<Row>): Promise<LossResult["metrics"]> {
    if (loss.needs.values) throw new Error(`loss ${loss.name}: it needs values, and this model has no value head`);
    const bound = loss.bind(rows);
    const all = rows.map((_, i) => i);
    const fixed = loss.scope === "batch" ? bound(await this.forward(rows), all) : undefined;
    const metrics: Record<string, number> = {};
    if (fixed) addMetrics(metrics, fixed.metrics);
    for (const indices of microBatches(rows, this.#options.microBatchTokens)) {
      using arena = new Arena();
      const group = indices.map((i) => rows[i]);
      const pass = arena.run(() => forwardPass(this.model, group, this.#options.temperature));
      if (!pass) continue;
      const result = fixed
        ? { gradients: indices.map((i) => fixed.gradients[i]), metrics: {} }
        : bound(await pass.outputs(), indices);
      addMetrics(metrics, result.metrics);
      const logprobs = pass.gather(result.gradients.map((gradient) => gradient.logprobs));
      const entropy = pass.gather(result.gradients.map((gradient) => gradient.entropy));
      arena.run(() => {
        const like = (values: Float64Array) =>
          tensor(values, { backend: this.model.backend, dtype: pass.logprobs.dtype });
        if (entropy) backward([pass.logprobs, pass.entropy], [like(logprobs!), like(entropy)]);
        else backward([pass.logprobs], [like(logprobs!)]);
      });
    }
    return metrics;
  }

  /** Applies and clears the gradients, clipped to the global norm. */
  async optimStep({ lr }: { readonly lr?: number } = {}): Promise<StepReport> {
    const norm = await gradNorm(this.model.parameters);
    const skipped = !Number.isFinite(norm);
    if (!skipped) this.optimizer.step({ lr, gradScale: clipScale(norm, this.#options.gradClip) });
    this.optimizer.zeroGrad();
    return { gradNorm: norm, skipped };
  }
}

/**
 * Log-probabilities and entropy of each row's scored tokens, [tokens] with zeros elsewhere; no gradient.
 * Entry t is about token t given the tokens before it.
 */
export async function forwardRows(
  model: Qwen,
  rows: readonly LearnerRow[],
  { microBatchTokens = 8192, temperature = 1 } = {},
): Promise<Outputs[]> {
  const outputs: Outputs[] = [];
  for (const indices of microBatches(rows, microBatchTokens)) {
    using arena = new Arena();
    const group = indices.map((i) => rows[i]);
    const pass = arena.run(() => noGrad(() => forwardPass(model, group, temperature)));
    const part = pass ? await pass.outputs() : group.map(({ tokens }) => emptyOutputs(tokens.length));
    indices.forEach((row, i) => {
      outputs[row] = part[i];
    });
  }
  return outputs;
}

function emptyOutputs(tokens: number): { logprobs: Float64Array; entropy: Float64Array } {
  return { logprobs: new Float64Array(tokens), entropy: new Float64Array(tokens) };
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
function forwardPass(model: Qwen, rows: readonly LearnerRow[], temperature: number) {
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
  const { logprobs, entropy } = model.logprobs(hidden, ints(targets), temperature);
  return {
    logprobs,
    entropy,
    /** The host's view, one entry per row. */
    async outputs() {
      const [l, e] = await Promise.all([logprobs.data(), entropy.data()]);
      const out = rows.map(({ tokens }) => emptyOutputs(tokens.length));
      places.forEach(({ row, token }, i) => {
        out[row].logprobs[token] = l[i];
        out[row].entropy[token] = e[i];
      });
      return out;
    },
    /** Per-token values of the rows, flat as the outputs are; undefined where no row has any. */
    gather(values: readonly (Float64Array | undefined)[]): Float64Array | undefined {
      if (values.every((value) => !value)) return undefined;
      return Float64Array.from(places, ({ row, token }) => values[row]?.[token] ?? 0);
    },
  } satisfies { logprobs: Tensor; entropy: Tensor; [key: string]: unknown };
}
