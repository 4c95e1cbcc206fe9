/**
 * The contract between the trainer and a loss: what a forward pass gives, and what a loss answers. All arrays have one
 * entry per token of the row's whole sequence; entry t is about token t given the tokens before it, and entry 0 is not
 * used.
 */

/** Outputs of a forward pass for one row. */
export interface Outputs {
  /** log p(token t | tokens < t), natural logarithm. */
  readonly logprobs: ArrayLike<number>;
  /** Entropy of the distribution that token t is drawn from, in nats. */
  readonly entropy?: ArrayLike<number>;
  /** Value of the state before token t. */
  readonly values?: ArrayLike<number>;
}

/** Derivatives of the mini-batch's loss by the outputs of one row; an output that is absent has derivative 0. */
export interface RowGradient {
  readonly logprobs: Float64Array;
  readonly entropy?: Float64Array;
  readonly values?: Float64Array;
}

/** A part of the mini-batch's loss. Values and metrics are shares: those of all parts add up to the mini-batch's. */
export interface LossResult {
  readonly value: number;
  /** One per row that was asked for, in that order. */
  readonly gradients: readonly RowGradient[];
  readonly metrics: Readonly<Record<string, number>>;
}

/**
 * How much of a mini-batch one evaluation has to see.
 * `token`, `row`: any set of whole rows, so the trainer asks micro-batch by micro-batch.
 * `batch`: all rows at once. The trainer runs a forward pass without gradients over the mini-batch, evaluates, then
 * runs forward and backward by micro-batches with the gradients as fixed weights.
 */
export type LossScope = "token" | "row" | "batch";

/** A loss bound to a mini-batch: `outputs[j]` belong to row `indices[j]` of the bound rows. */
export type BoundLoss = (outputs: readonly Outputs[], indices: readonly number[]) => LossResult;

/** A loss over rows of type `Row`, which hold what it needs beside the outputs. */
export interface Loss<Row> {
  readonly name: string;
  readonly scope: LossScope;
  /** Which outputs it reads beside the log-probs, so that a trainer computes no others. */
  readonly needs: { readonly entropy: boolean; readonly values: boolean };
  /** Takes the normalisers from the whole mini-batch, so that its micro-batches (and ranks) never change the result. */
  bind(rows: readonly Row[]): BoundLoss;
}

/** Adds the metrics of one part to a running total. */
export function addMetrics(total: Record<string, number>, part: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(part)) total[name] = (total[name] ?? 0) + value;
}

/**
 * Checks the arrays of a row against its outputs.
 *
 * @throws when one of them does not have one entry per token.
 */
export function checkLengths(
  loss: string,
  outputs: Outputs,
  arrays: Readonly<Record<string, ArrayLike<number> | undefined>>,
): void {
  const { length } = outputs.logprobs;
  for (const [name, array] of Object.entries(arrays)) {
    if (array && array.length !== length) {
      throw new RangeError(`${loss}: ${name} has ${array.length} entries, the outputs have ${length}`);
    }
  }
}
