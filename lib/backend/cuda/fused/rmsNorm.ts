import { sizeOf } from "../../../shape.js";
import type { ArrayRef, FusedKernels, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { copyBytes } from "../copies.js";
import type { CudaDevice } from "../device.js";
import { cType, packWidth } from "../launch.js";
import { rangeOf } from "../overlaps.js";

/** Rows whose weight gradient one block sums: fixed, so that the order of addition is. */
const CHUNK = 16;
const MOST_THREADS = 1024;

type RmsNormKernels = Pick<FusedKernels, "rmsNorm" | "rmsNormBackward" | "qkNorm" | "qkNormBackward">;

const whole = (device: CudaDevice, storage: Storage) => device.address({ storage, offset: 0, shape: [] });

/** Up to `threads` threads a row, or more so that none has more than `most` packs of it. */
function division(
  device: CudaDevice,
  { width, threads, most }: Readonly<Record<"width" | "threads" | "most", number>>,
  x: ArrayRef,
  ...others: readonly ArrayRef[]
) {
  const VEC = packWidth(device, width, x, ...others);
  const packs = Math.max(1, Math.ceil(width / VEC));
  let THREADS = Math.min(threads, 32 * 2 ** Math.ceil(Math.log2(Math.max(1, packs / 32))));
  while (THREADS < MOST_THREADS && packs > most * THREADS) THREADS *= 2;
  const DTYPE = cType("rmsNorm", x.storage.dtype);
  return { DTYPE, VEC, THREADS, PACKS: Math.ceil(packs / THREADS) };
}

/** The kernel of rmsNorm; where it leads, the next one may read ahead what this one does not write. */
function normalize(
  { device, empty }: CudaContext,
  x: ArrayRef,
  weight: ArrayRef,
  eps: number,
  { leads = false } = {},
): { readonly y: Storage; readonly rstd: Storage } {
  const width = weight.shape[0];
  const rows = sizeOf(x.shape) / Math.max(1, width);
  const y = empty(x.storage.dtype, rows * width, "rmsNorm");
  const rstd = empty("f32", rows, "rmsNorm statistics");
  const shared = division(device, { width, threads: 32, most: 16 }, x, weight);
  // Few rows each get a multiprocessor of their own, and its registers.
  const many = rows > 2 * device.multiprocessors;
  const ROWS = shared.THREADS === 32 && many ? 4 : 1;
  const fn = device.kernels.get("rmsNorm", "rms_norm", "ppppiif", { ...shared, ROWS, EARLY: many ? 0 : 1 });
  const [from, norm, to, statistics] = [
    device.address(x),
    device.address(weight),
    whole(device, y),
    whole(device, rstd),
  ];
  device.launch(fn, [from, norm, to, statistics, rows, width, eps], {
    grid: [Math.ceil(rows / ROWS)],
    block: shared.THREADS * ROWS,
    overlaps: leads ? { writes: [rangeOf(device, y), rangeOf(device, rstd)], ahead: [] } : "waits",
    bytes: 4 * rows * width,
  });
  return { y, rstd };
}

/** Runs `use` with the address of x normalized; the kernel after that reads nothing of it ahead. */
export function withNormal(
  context: CudaContext,
  x: ArrayRef,
  norm: ArrayRef,
  eps: number,
  use: (normal: number) => void,
): void {
  const { y, rstd } = normalize(context, x, norm, eps, { leads: true });
  use(whole(context.device, y));
  for (const used of [y, rstd]) used.backend.free(used);
}

export function rmsNormKernels(context: CudaContext): RmsNormKernels {
  const { device, empty } = context;
  /** Sums [chunks, width] of f32 over the chunks into a new array of x's dtype. */
  const addChunks = (partial: number, chunks: number, width: number, x: ArrayRef, label: string): Storage => {
    const out = empty(x.storage.dtype, width, label);
    const defines = { DTYPE: cType(label, x.storage.dtype), VEC: 1, THREADS: 32, PACKS: 1 };
    const fn = device.kernels.get("rmsNormBackward", "add_chunks", "ppii", defines);
    const target = device.address({ storage: out, offset: 0, shape: [width] });
    device.launch(fn, [partial, target, chunks, width], { grid: [Math.ceil(width / 32)], block: 1024 });
    return out;
  };
  const at = (storage: Storage) => whole(device, storage);

  return {
    rmsNorm: (x, weight, eps) => normalize(context, x, weight, eps),

    rmsNormBackward(dy, x, weight, rstd, residual) {
      const width = weight.shape[0];
      const rows = sizeOf(x.shape) / Math.max(1, width);
      const dx = empty(x.storage.dtype, rows * width, "rmsNorm gradient");
      const chunks = Math.ceil(rows / CHUNK);
      const shared = division(device, { width, threads: 256, most: 4 }, x, dy, weight, ...(residual ? [residual] : []));
      const fn = device.kernels.get("rmsNormBackward", "rms_norm_backward", "pppppppiii", shared);
      const dWeight = device.withScratch(4 * chunks * width, "rmsNorm scratch", (partial) => {
        const [d, v, w, r] = [dy, x, weight, rstd].map((array) => device.address(array));
        const past = residual ? device.address(residual) : 0;
        device.launch(fn, [d, v, w, r, past, at(dx), partial, rows, width, CHUNK], {
          grid: [chunks],
          block: shared.THREADS,
          bytes: (residual ? 8 : 6) * rows * width,
        });
        return addChunks(partial, chunks, width, x, "rmsNorm gradient");
      });
      return { dx, dWeight };
    },

    qkNorm(x, q, k, { heads, kvHeads, headDim }, eps) {
      const [tokens, width] = x.shape;
      const y = empty(x.storage.dtype, tokens * width, "qkNorm");
      const rstd = empty("f32", tokens * (heads + kvHeads), "qkNorm statistics");
      const defines = { DTYPE: cType("qkNorm", x.storage.dtype), HEAD_DIM: headDim };
      const fn = device.kernels.get("qkNorm", "qk_norm", "pppppiiif", defines);
      const [v, qw, kw] = [x, q, k].map((array) => device.address(array));
      device.launch(fn, [v, qw, kw, at(y), at(rstd), tokens, heads, kvHeads, eps], {
        grid: [Math.ceil((tokens * (heads + 2 * kvHeads)) / 8)],
        block: 256,
        overlaps: "waits",
        bytes: 4 * tokens * width,
      });
      return { y, rstd };
    },

    qkNormBackward(dy, x, q, k, rstd, { heads, kvHeads, headDim }) {
      const [tokens, width] = x.shape;
      const dx = empty(x.storage.dtype, tokens * width, "qkNorm gradient");
      const chunks = Math.ceil(tokens / CHUNK);
      const defines = { DTYPE: cType("qkNorm", x.storage.dtype), HEAD_DIM: headDim };
      const fn = device.kernels.get("qkNorm", "qk_norm_backward", "pppppppiiii", defines);
      return device.withScratch(8 * chunks * headDim, "qkNorm scratch", (partial) => {
        const [d, v, qw, kw, r] = [dy, x, q, k, rstd].map((array) => device.address(array));
        device.launch(fn, [d, v, qw, kw, r, at(dx), partial, tokens, heads, kvHeads, CHUNK], {
          grid: [chunks],
          block: 256,
          bytes: 6 * tokens * width,
        });
        const both = addChunks(partial, chunks, 2 * headDim, x, "qkNorm gradient");
        const half = (i: number) => {
          const out = empty(x.storage.dtype, headDim, "qkNorm gradient");
          const bytes = headDim * (x.storage.dtype === "f32" ? 4 : 2);
          copyBytes(device, at(out), at(both) + i * bytes, bytes);
          return out;
        };
        const [dq, dk] = [half(0), half(1)];
        both.backend.free(both);
        return { dx, dq, dk };
      });
    },
  };
}
