import { dtypes } from "../../../dtype.js";
import type { ArrayRef, FusedKernels, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { Matrix } from "../cublaslt.js";
import { cType } from "../launch.js";

/** The vocabulary is cut at multiples of this: the order in which a row's parts are merged is part of its bits. */
const COLUMNS = 4096;
/** Rows of logits at once: with COLUMNS 32 MiB of f32, which stay in the second-level cache. */
const ROWS = 2048;
/** Columns whose gradient is held at once, in the operands' dtype, for all rows of a pass. */
const BACKWARD_COLUMNS = 16384;
/** Rows of a backward pass. */
const BACKWARD_ROWS = 16384;

type LogprobKernels = Pick<FusedKernels, "linearLogprob" | "linearLogprobBackward">;

/** Consecutive pieces [from, from + count) of at most `size`. */
function* pieces(total: number, size: number): Generator<{ from: number; count: number }> {
  for (let from = 0; from < total; from += size) yield { from, count: Math.min(size, total - from) };
}

export function linearLogprobKernels({ device, blas, empty }: CudaContext): LogprobKernels {
  const whole = (storage: Storage) => device.address({ storage, offset: 0, shape: [] });

  /** z [rows, COLUMNS] = hidden·weightᵀ/temperature for some rows and columns. */
  const logits = (
    hidden: ArrayRef,
    weight: ArrayRef,
    row: { from: number; count: number },
    column: { from: number; count: number },
    temperature: number,
    z: number,
  ): void => {
    const { dtype } = hidden.storage;
    const [width, { bytes }] = [hidden.shape[1], dtypes[dtype]];
    const rowsOf = (x: ArrayRef, from: number): Matrix => ({
      address: device.address(x) + from * width * bytes,
      pitch: width,
    });
    blas.multiply({
      m: row.count,
      n: column.count,
      k: width,
      transposeA: false,
      transposeB: true,
      a: rowsOf(hidden, row.from),
      b: rowsOf(weight, column.from),
      c: { address: z, pitch: COLUMNS },
      dtype,
      resultDtype: "f32",
      alpha: 1 / temperature,
    });
  };

  return {
    linearLogprob(hidden, weight, targets, temperature) {
      const [tokens] = hidden.shape;
      const [vocabulary] = weight.shape;
      const [logprobs, entropy, lse] = [0, 1, 2].map(() => empty("f32", tokens, "linearLogprob"));
      const defines = { DTYPE: cType("linearLogprob", hidden.storage.dtype) };
      const merge = device.kernels.get("linearLogprob", "logprob_chunk", "pppili", defines);
      const finish = device.kernels.get("linearLogprob", "logprob_finish", "ppppi", defines);
      const rows = Math.min(ROWS, tokens);
      device.withScratch(4 * rows * COLUMNS, "linearLogprob logits", (z) =>
        device.withScratch(16 * rows, "linearLogprob state", (state) => {
          for (const row of pieces(tokens, ROWS)) {
            for (const column of pieces(vocabulary, COLUMNS)) {
              logits(hidden, weight, row, column, temperature, z);
              device.launch(
                merge,
                [z, device.address(targets) + 4 * row.from, state, column.count, COLUMNS, column.from],
                { grid: [row.count], block: 256, bytes: 4 * row.count * column.count },
              );
            }
            const outputs = [logprobs, entropy, lse].map((storage) => whole(storage) + 4 * row.from);
            device.launch(finish, [state, ...outputs, row.count], { grid: [Math.ceil(row.count / 256)], block: 256 });
          }
        }),
      );
      return { logprobs, entropy, lse };
    },

    linearLogprobBackward(dLogprobs, dEntropy, hidden, weight, targets, entropy, lse, temperature, into) {
      const { dtype } = hidden.storage;
      const { bytes } = dtypes[dtype];
      const [tokens, width] = hidden.shape;
      const [vocabulary] = weight.shape;
      const dHidden = empty(dtype, tokens * width, "linearLogprob gradient");
      const dWeight = into?.storage ?? empty("f32", vocabulary * width, "gradient of the head");
      const dWeightAt = into ? device.address(into) : whole(dWeight);
      if (tokens === 0 && !into) device.driver.memsetD32(dWeightAt, 0, vocabulary * width, device.stream);
      const backward = device.kernels.get("linearLogprob", "logprob_backward", "pppppppillif", {
        DTYPE: cType("linearLogprob", dtype),
      });
      const rows = Math.min(BACKWARD_ROWS, tokens);
      const columns = Math.min(BACKWARD_COLUMNS, Math.ceil(vocabulary / 8) * 8);
      const [zBytes, dzBytes] = [4 * Math.min(ROWS, rows) * COLUMNS, bytes * rows * columns];
      device.withScratch(zBytes, "linearLogprob logits", (z) =>
        device.withScratch(dzBytes, "linearLogprob gradient of logits", (dz) =>
          device.withScratch(4 * rows * width, "linearLogprob gradient in f32", (sum) => {
            for (const pass of pieces(tokens, BACKWARD_ROWS)) {
              for (const wide of pieces(vocabulary, BACKWARD_COLUMNS)) {
                for (const part of pieces(pass.count, ROWS)) {
                  for (const narrow of pieces(wide.count, COLUMNS)) {
                    const row = { from: pass.from + part.from, count: part.count };
                    const column = { from: wide.from + narrow.from, count: narrow.count };
                    logits(hidden, weight, row, column, temperature, z);
                    const perRow = [targets, dLogprobs, dEntropy, entropy, lse].map(
                      (array) => device.address(array) + 4 * row.from,
                    );
                    const target = dz + bytes * (part.from * columns + narrow.from);
                    device.launch(
                      backward,
                      [z, ...perRow, target, column.count, COLUMNS, columns, column.from, 1 / temperature],
                      { grid: [row.count], block: 256, bytes: (4 + bytes) * row.count * column.count },
                    );
                  }
                }
                const [dzM, sumM] = [
                  { address: dz, pitch: columns },
                  { address: sum, pitch: width },
                ];
                const hiddenM = { address: device.address(hidden) + bytes * pass.from * width, pitch: width };
                const weightM = { address: device.address(weight) + bytes * wide.from * width, pitch: width };
                const gradientM = { address: dWeightAt + 4 * wide.from * width, pitch: width };
                blas.multiply({
                  ...{ m: pass.count, n: width, k: wide.count, transposeA: false, transposeB: false },
                  ...{ a: dzM, b: weightM, c: sumM, dtype, resultDtype: "f32" },
                  addend: wide.from > 0 ? sumM : undefined,
                });
                blas.multiply({
                  ...{ m: wide.count, n: width, k: pass.count, transposeA: true, transposeB: false },
                  ...{ a: dzM, b: hiddenM, c: gradientM, dtype, resultDtype: "f32" },
                  addend: into || pass.from > 0 ? gradientM : undefined,
                });
              }
              round(sum, whole(dHidden) + bytes * pass.from * width, pass.count * width);
            }
          }),
        ),
      );
      return { dHidden, dWeight };

      function round(from: number, to: number, count: number): void {
        if (dtype === "f32") device.driver.memcpyDtoD(to, from, 4 * count, device.stream);
        else {
          const fn = device.kernels.get("linearLogprob", "round_to", "ppl", { DTYPE: cType("linearLogprob", dtype) });
          const grid = [Math.ceil(count / 1024)] as const;
          device.launch(fn, [from, to, count], { grid, block: 256, bytes: 6 * count });
        }
      }
    },
  };
}
