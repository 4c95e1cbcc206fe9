import type { ArrayRef, FusedKernels, MatmulSpec, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { CudaDevice } from "../device.js";
import type { RopeTables } from "./rope.js";

/** Rows up to which kernels/fewRows.cu beats cuBLASLt. */
const MOST_ROWS = 8;
/** Bytes of copies in flight that a block asks for; with the next kernel's block beside it they fill a multiprocessor's memory. */
const IN_FLIGHT = 96 * 1024;
const MOST_TILES = 11;
/** Up to this width kernels/rmsNorm.cu gives a row 32 threads, whose order of additions kernels/fewRows.cu has too. */
const WIDEST_NORM = 4096;

/** Whether a product goes to kernels/fewRows.cu, which gives the bits of cuBLASLt and is made for Hopper's memory. */
export function isFew(device: CudaDevice, a: ArrayRef, b: ArrayRef, spec: MatmulSpec): boolean {
  return (
    device.capability === 90 &&
    a.storage.dtype === "bf16" &&
    spec.batch === 1 &&
    spec.m > 0 &&
    spec.m <= MOST_ROWS &&
    !spec.transposeA &&
    spec.transposeB &&
    spec.n >= 256 &&
    spec.k >= 256 &&
    spec.k % 64 === 0 &&
    [a, b].every((x) => device.address(x) % 16 === 0)
  );
}

/** Enqueues y = x·wᵀ (+ bias) (+ residual), given by their addresses. */
export function multiplyFew(
  device: CudaDevice,
  addresses: Readonly<Record<"x" | "w" | "bias" | "residual" | "y", number>>,
  { m, n, k }: MatmulSpec,
): void {
  const { x, w, bias, residual, y } = addresses;
  const { defines, ...launch } = division(device, { tiles: Math.ceil(n / 16), width: k, norm: false });
  const fn = device.kernels.get("fewRows", "few_rows_plain", "pppppiii", defines, launch.shared);
  device.launch(fn, [x, w, bias, residual, y, m, n, k], { ...launch, bytes: 2 * n * k, flops: 2 * m * n * k });
}

/** How blocks share weights of `tiles` tiles of 16 outputs and `width` columns; `norm`: whether the kernel normalizes x. */
function division(
  device: CudaDevice,
  { tiles, width, norm }: { readonly tiles: number; readonly width: number; readonly norm: boolean },
) {
  const each = Math.ceil(tiles / device.multiprocessors);
  // With a block's own normalized rows two blocks do not fit, so no multiprocessor may get a second.
  const TILES = each <= 2 && !norm ? 1 : Math.min(each, MOST_TILES);
  const STEP = TILES <= 2 && width % 128 === 0 ? 128 : 64;
  const stage = 2 * STEP * (16 * TILES + (norm ? 0 : MOST_ROWS));
  const STAGES = Math.min(width / STEP, Math.max(4, Math.floor(IN_FLIGHT / stage)));
  const WARPS = TILES <= 2 ? 4 : TILES;
  return {
    defines: { TILES, WARPS, STEP, STAGES, NORM: norm ? 1 : 0 },
    grid: [Math.ceil(tiles / TILES)] as const,
    block: 32 * WARPS,
    shared: STAGES * stage + (norm ? 2 * MOST_ROWS * width : 0),
    overlaps: true,
  };
}

export function fewRowsKernels(
  { device, empty }: CudaContext,
  tableFor: RopeTables,
): Pick<FusedKernels, "normSwiglu" | "qkvToCache"> {
  const at = (x: ArrayRef) => device.address(x);
  const whole = (storage: Storage) => at({ storage, offset: 0, shape: [] });
  const normed = (x: ArrayRef, norm: ArrayRef, weight: ArrayRef): boolean => {
    const [[m, k], [n]] = [x.shape, weight.shape];
    const spec = { batch: 1, m, n, k, transposeA: false, transposeB: true };
    return k <= WIDEST_NORM && at(norm) % 16 === 0 && isFew(device, x, weight, spec);
  };
  return {
    normSwiglu(x, norm, eps, weight) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      if (!normed(x, norm, weight) || outputs % 16 !== 0) return undefined;
      const half = outputs / 2;
      const y = empty(x.storage.dtype, rows * half, "normSwiglu");
      const { defines, ...launch } = division(device, { tiles: outputs / 16, width, norm: true });
      const fn = device.kernels.get("fewRows", "few_rows_swiglu", "ppfppiii", defines, launch.shared);
      const args = [at(x), at(norm), eps, at(weight), whole(y), rows, half, width];
      device.launch(fn, args, { ...launch, bytes: 2 * outputs * width, flops: 2 * rows * outputs * width });
      return y;
    },

    qkvToCache(x, { norm, eps, weight, bias }, { positions, rows: places }, rotation, cache) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      const { heads, kvHeads, headDim } = rotation;
      if (!normed(x, norm, weight) || headDim % 32 !== 0) return undefined;
      const y = empty(x.storage.dtype, rows * outputs, "qkvToCache");
      const { cos, sin, positions: known } = tableFor(rotation);
      const { defines, ...launch } = division(device, { tiles: outputs / 16, width, norm: true });
      const fn = device.kernels.get(
        "fewRows",
        "few_rows_qkv",
        "ppfpppppipppiiii",
        { ...defines, HEAD_DIM: headDim },
        launch.shared,
      );
      const sources = [at(x), at(norm), eps, at(weight), bias ? at(bias) : 0, at(positions), cos, sin, known];
      const args = [...sources, at(places), whole(y), at(cache), rows, heads, kvHeads, width];
      device.launch(fn, args, { ...launch, bytes: 2 * outputs * width, flops: 2 * rows * outputs * width });
      return y;
    },
  };
}
