import { dtypes } from "../../../dtype.js";
import type { ArrayRef, FusedKernels, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { clearBytes } from "../copies.js";
import type { Matrix } from "../cublaslt.js";
import { cType } from "../launch.js";
import { linearLogprobHopper, type Range } from "./linearLogprobHopper.js";

/** The vocabulary is cut at multiples of this: the order in which a row's parts are merged is part of its bits. */
const COLUMNS = 4096;
/** Rows of f32 logits at once, where logits are in memory at all. */
const ROWS = 2048;
/** Rows of a pass, and columns whose gradient is held for them at once in the operands' dtype: 512 MiB of bf16. */
const PASS = { rows: 16384, columns: 16384 };

type LogprobKernels = Pick<FusedKernels, "linearLogprob" | "linearLogprobBackward">;

/** Consecutive pieces [from, from + count) of at most `size`. */
function* pieces({ from: start, count: total }: Range, size: number): Generator<Range> {
  for (let from = 0; from < total; from += size) yield { from: start + from, count: Math.min(size, total - from) };
}

/**
 * The head with its loss: in one kernel where Hopper's is at hand, else over chunks of f32 logits by cuBLASLt. The products
 * that follow in backward are cuBLASLt's either way.
 */
export function linearLogprobKernels(context: CudaContext): LogprobKernels {
  const { device, blas, empty } = context;
  const hopper = linearLogprobHopper(context);
  const whole = (storage: Storage) => device.address({ storage, offset: 0, shape: [] });
  const all = (count: number): Range => ({ from: 0, count });
  const kernel = (entry: string, signature: string, x: ArrayRef) =>
    device.kernels.get("linearLogprob", entry, signature, { DTYPE: cType("linearLogprob", x.storage.dtype) });
  /** Rows of x from `from` on. */
  const rowsOf = (x: ArrayRef, from: number): Matrix => ({
    address: device.address(x) + from * x.shape[1] * dtypes[x.storage.dtype].bytes,
    pitch: x.shape[1],
  });

  /** z [rows, COLUMNS] = hidden·weightᵀ/temperature for some rows and columns. */
  const logits = (hidden: ArrayRef, weight: ArrayRef, row: Range, column: Range, temperature: number, z: number) =>
    blas.multiply({
      ...{ m: row.count, n: column.count, k: hidden.shape[1], transposeA: false, transposeB: true },
      ...{ a: rowsOf(hidden, row.from), b: rowsOf(weight, column.from), c: { address: z, pitch: COLUMNS } },
      ...{ dtype: hidden.storage.dtype, resultDtype: "f32", alpha: 1 / temperature },
    });

  const forwardInChunks: typeof hopper.forward = (hidden, weight, rows, at, temperature) => {
    const merge = kernel("logprob_chunk", "pppili", hidden);
    const finish = kernel("logprob_finish", "ppppi", hidden);
    const most = Math.min(ROWS, rows.count);
    device.withScratch(4 * most * COLUMNS, "linearLogprob logits", (z) =>
      device.withScratch(16 * most, "linearLogprob state", (state) => {
        for (const row of pieces(rows, ROWS)) {
          const skipped = 4 * (row.from - rows.from);
          for (const column of pieces(all(weight.shape[0]), COLUMNS)) {
            logits(hidden, weight, row, column, temperature, z);
            device.launch(merge, [z, at.targets + skipped, state, column.count, COLUMNS, column.from], {
              grid: [row.count],
              block: 256,
              bytes: 4 * row.count * column.count,
            });
          }
          const outputs = [at.logprobs, at.entropy, at.lse].map((address) => address + skipped);
          device.launch(finish, [state, ...outputs, row.count], { grid: [Math.ceil(row.count / 256)], block: 256 });
        }
      }),
    );
  };

  const gradientInChunks: typeof hopper.gradient = (hidden, weight, rows, columns, at, dz, temperature) => {
    const fn = kernel("logprob_backward", "pppppppillif", hidden);
    const { bytes } = dtypes[hidden.storage.dtype];
    device.withScratch(4 * Math.min(ROWS, rows.count) * COLUMNS, "linearLogprob logits", (z) => {
      for (const row of pieces(rows, ROWS)) {
        for (const column of pieces(columns, COLUMNS)) {
          logits(hidden, weight, row, column, temperature, z);
          const skipped = row.from - rows.from;
          const perRow = [at.targets, at.dLogprobs, at.dEntropy, at.entropy, at.lse].map((a) => a + 4 * skipped);
          const target = dz.address + bytes * (skipped * dz.pitch + column.from - columns.from);
          device.launch(fn, [z, ...perRow, target, column.count, COLUMNS, dz.pitch, column.from, 1 / temperature], {
            grid: [row.count],
            block: 256,
            bytes: (4 + bytes) * row.count * column.count,
          });
        }
      }
    });
  };

  return {
    linearLogprob(hidden, weight, targets, temperature) {
      const [tokens] = hidden.shape;
      const [logprobs, entropy, lse] = [0, 1, 2].map(() => empty("f32", tokens, "linearLogprob"));
      const forward = hopper.fits(hidden, weight) ? hopper.forward : forwardInChunks;
      for (const rows of pieces(all(tokens), PASS.rows)) {
        const from = (address: number) => address + 4 * rows.from;
        const at = { logprobs: from(whole(logprobs)), entropy: from(whole(entropy)), lse: from(whole(lse)) };
        forward(hidden, weight, rows, { ...at, targets: from(device.address(targets)) }, temperature);
      }
      return { logprobs, entropy, lse };
    },

    linearLogprobBackward(dLogprobs, dEntropy, hidden, weight, targets, entropy, lse, temperature, into) {
      const { dtype } = hidden.storage;
      const { bytes } = dtypes[dtype];
      const [tokens, width] = hidden.shape;
      const [vocabulary] = weight.shape;
      const gradient = hopper.fits(hidden, weight) ? hopper.gradient : gradientInChunks;
      const dHidden = empty(dtype, tokens * width, "linearLogprob gradient");
      const dWeight = into?.storage ?? empty("f32", vocabulary * width, "gradient of the head");
      const dWeightAt = into ? device.address(into) : whole(dWeight);
      if (tokens === 0 && !into) clearBytes(device, dWeightAt, 4 * vocabulary * width);
      const most = Math.min(PASS.rows, tokens);
      const pitch = Math.min(PASS.columns, Math.ceil(vocabulary / 8) * 8);
      device.withScratch(bytes * most * pitch, "linearLogprob gradient of logits", (dzAt) =>
        device.withScratch(4 * most * width, "linearLogprob gradient in f32", (sumAt) => {
          const dz = { address: dzAt, pitch };
          const sum = { address: sumAt, pitch: width };
          for (const rows of pieces(all(tokens), PASS.rows)) {
            const from = (array: ArrayRef) => device.address(array) + 4 * rows.from;
            const given = { targets: from(targets), dLogprobs: from(dLogprobs), dEntropy: from(dEntropy) };
            const at = { ...given, entropy: from(entropy), lse: from(lse) };
            for (const columns of pieces(all(vocabulary), PASS.columns)) {
              gradient(hidden, weight, rows, columns, at, dz, temperature);
              blas.multiply({
                ...{ m: rows.count, n: width, k: columns.count, transposeA: false, transposeB: false },
                ...{ a: dz, b: rowsOf(weight, columns.from), c: sum, dtype, resultDtype: "f32" },
                addend: columns.from > 0 ? sum : undefined,
              });
              const dRows = { address: dWeightAt + 4 * columns.from * width, pitch: width };
              blas.multiply({
                ...{ m: columns.count, n: width, k: rows.count, transposeA: true, transposeB: false },
                ...{ a: dz, b: rowsOf(hidden, rows.from), c: dRows, dtype, resultDtype: "f32" },
                addend: into || rows.from > 0 ? dRows : undefined,
              });
            }
            const count = rows.count * width;
            const target = whole(dHidden) + bytes * rows.from * width;
            device.launch(kernel("round_to", "ppl", hidden), [sumAt, target, count], {
              grid: [Math.ceil(count / 1024)],
              block: 256,
              bytes: (4 + bytes) * count,
            });
          }
        }),
      );
      return { dHidden, dWeight };
    },
  };
}
