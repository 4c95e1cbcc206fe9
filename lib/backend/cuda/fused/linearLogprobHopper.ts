import type { ArrayRef } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { tensorMap } from "../tensorMap.js";

/** As in kernels/linearLogprobHopper.cu. */
const TILE = { rows: 128, columns: 256, step: 64, stages: 4, threads: 384 };
const STAGE_BYTES = 2 * TILE.step * (TILE.rows + TILE.columns);
const EXTRA_SHARED = 128 + 1024;
const STAGING_BYTES = 4 * 64 * 64 * 2;
/** Pairs of row tiles that share columns of the weight while they are in the cache. */
const GROUP = 8;

export const linearLogprobHopperModules = [{ file: "linearLogprobHopper", defines: {} }];

/** Consecutive rows or columns. */
export interface Range {
  readonly from: number;
  readonly count: number;
}

/** Addresses of per-row values, f32 or i32, of the first row of a range. */
type PerRow<K extends string> = Readonly<Record<K, number>>;

export interface HopperHead {
  /** Whether the kernels can take these operands. */
  fits(hidden: ArrayRef, weight: ArrayRef): boolean;
  /** Log-probabilities, entropy and log-sum-exp of a range of rows. */
  forward(
    hidden: ArrayRef,
    weight: ArrayRef,
    rows: Range,
    at: PerRow<"targets" | "logprobs" | "entropy" | "lse">,
    temperature: number,
  ): void;
  /** Gradient of the logits of some rows and columns into dz [rows, pitch], bf16; a row has room for a multiple of 8. */
  gradient(
    hidden: ArrayRef,
    weight: ArrayRef,
    rows: Range,
    columns: Range,
    at: PerRow<"targets" | "dLogprobs" | "dEntropy" | "entropy" | "lse">,
    dz: { readonly address: number; readonly pitch: number },
    temperature: number,
  ): void;
}

/** The head and its loss in one kernel on Hopper's tensor cores: bf16, width a multiple of 8. */
export function linearLogprobHopper({ device }: CudaContext): HopperHead {
  const kernel = (entry: string, signature: string, shared = 0) =>
    device.kernels.get("linearLogprobHopper", entry, signature, {}, shared);
  const boxes = (x: ArrayRef, { from, count }: Range) =>
    tensorMap(device.driver, {
      address: device.address(x) + 2 * from * x.shape[1],
      rows: count,
      columns: x.shape[1],
      boxRows: 128,
      boxColumns: 64,
    });
  const all = (x: ArrayRef): Range => ({ from: 0, count: x.shape[0] });
  /** Blocks go in pairs. */
  const grid = (rows: number, columns: number): [number] => {
    const units = Math.ceil(rows / (2 * TILE.rows)) * Math.ceil(columns / TILE.columns);
    return [2 * Math.min(Math.floor(device.multiprocessors / 2), units)];
  };
  const forwardShared = TILE.stages * STAGE_BYTES + EXTRA_SHARED;
  const backwardShared = forwardShared + STAGING_BYTES;

  return {
    fits: (hidden, weight) =>
      device.capability === 90 &&
      hidden.storage.dtype === "bf16" &&
      hidden.shape[1] % 8 === 0 &&
      [hidden, weight].every((x) => device.address(x) % 16 === 0),

    forward(hidden, weight, rows, at, temperature) {
      const [vocabulary, width] = weight.shape;
      const main = kernel("linear_logprob_hopper", "sspppiiiif", forwardShared);
      const merge = kernel("linear_logprob_merge", "ppppppii");
      const chunks = Math.ceil(vocabulary / TILE.columns);
      device.withScratch(12 * chunks * rows.count, "linearLogprob scratch", (parts) =>
        device.withScratch(4 * rows.count, "linearLogprob scratch", (y) => {
          device.launch(
            main,
            [
              ...[boxes(hidden, rows), boxes(weight, all(weight)), at.targets, parts, y],
              ...[rows.count, vocabulary, width, GROUP, 1 / temperature],
            ],
            {
              grid: grid(rows.count, vocabulary),
              block: TILE.threads,
              shared: forwardShared,
              flops: 2 * rows.count * vocabulary * width,
            },
          );
          const outputs = [at.logprobs, at.entropy, at.lse];
          device.launch(merge, [parts, y, at.targets, ...outputs, rows.count, vocabulary], {
            grid: [Math.ceil(rows.count / 32)],
            block: 256,
            bytes: 12 * chunks * rows.count,
          });
        }),
      );
    },

    gradient(hidden, weight, rows, columns, at, dz, temperature) {
      const width = weight.shape[1];
      const fn = kernel("linear_logprob_backward_hopper", "ssspppppiiiiif", backwardShared);
      const target = tensorMap(device.driver, {
        ...dz,
        rows: rows.count,
        columns: columns.count,
        boxRows: 64,
        boxColumns: 64,
      });
      device.launch(
        fn,
        [
          ...[boxes(hidden, rows), boxes(weight, all(weight)), target],
          ...[at.targets, at.dLogprobs, at.dEntropy, at.entropy, at.lse],
          ...[rows.count, columns.from, columns.count, width, GROUP, 1 / temperature],
        ],
        {
          grid: grid(rows.count, columns.count),
          block: TILE.threads,
          shared: backwardShared,
          flops: 2 * rows.count * columns.count * width,
        },
      );
    },
  };
}
