import type { ArrayRef, Backend, FusedKernels, MatmulSpec } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { CudaDevice } from "../device.js";

/** Rows up to which kernels/fewRows.cu beats cuBLASLt. */
const MOST_ROWS = 8;
/** Bytes of copies in flight that a block asks for; two blocks of them fit a multiprocessor. */
const IN_FLIGHT = 96 * 1024;
const MOST_TILES = 11;

/**
 * Whether a product goes to kernels/fewRows.cu, which gives the bits of cuBLASLt and is made for Hopper's memory. Asked for by
 * ITPO_FEW_ROWS=1 until it has been measured on all shapes.
 */
export function isFew(device: CudaDevice, a: ArrayRef, b: ArrayRef, spec: MatmulSpec): boolean {
  return (
    process.env.ITPO_FEW_ROWS === "1" &&
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

/** Enqueues the kernel `entry` for weights of `tiles` tiles of 16 outputs and `width` columns. */
export function launchFew(
  device: CudaDevice,
  entry: "few_rows_plain" | "few_rows_swiglu",
  args: readonly number[],
  { tiles, width, rows }: Readonly<Record<"tiles" | "width" | "rows", number>>,
): void {
  const each = Math.ceil(tiles / device.multiprocessors);
  const TILES = each <= 2 ? 1 : Math.min(each, MOST_TILES);
  const STEP = TILES === 1 && width % 128 === 0 ? 128 : 64;
  const stage = 2 * STEP * (16 * TILES + MOST_ROWS);
  const STAGES = Math.min(width / STEP, Math.max(4, Math.floor(IN_FLIGHT / stage)));
  const WARPS = TILES === 1 ? 4 : TILES;
  const defines = { NT: 1, TILES, SPLIT: 1, WARPS, STEP, STAGES };
  const shared = STAGES * stage;
  const fn =
    entry === "few_rows_plain"
      ? device.kernels.get("fewRows", "few_rows_plain", "pppppiii", defines, shared)
      : device.kernels.get("fewRows", "few_rows_swiglu", "pppiii", defines, shared);
  device.launch(fn, args, {
    grid: [Math.ceil(tiles / TILES)],
    block: 32 * WARPS,
    shared,
    overlaps: true,
    bytes: 2 * 16 * tiles * width,
    flops: 2 * rows * 16 * tiles * width,
  });
}

export function fewRowsKernels(
  { device, empty }: CudaContext,
  { matmul, swiglu }: Pick<Backend, "matmul"> & Pick<FusedKernels, "swiglu">,
): Pick<FusedKernels, "linearSwiglu"> {
  const at = (x: ArrayRef) => device.address(x);
  return {
    linearSwiglu(x, weight) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      const spec = { batch: 1, m: rows, n: outputs, k: width, transposeA: false, transposeB: true };
      if (!isFew(device, x, weight, spec) || outputs % 16 !== 0) {
        const both = matmul(x, weight, spec);
        const y = swiglu({ storage: both, offset: 0, shape: [rows, outputs] });
        both.backend.free(both);
        return y;
      }
      const half = outputs / 2;
      const y = empty(x.storage.dtype, rows * half, "linearSwiglu");
      const args = [at(x), at(weight), at({ storage: y, offset: 0, shape: [] }), rows, half, width];
      launchFew(device, "few_rows_swiglu", args, { tiles: outputs / 16, width, rows });
      return y;
    },
  };
}
