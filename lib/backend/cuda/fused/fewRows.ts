import type { ArrayRef, FusedKernels, MatmulSpec, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { CudaDevice } from "../device.js";
import { tensorMap } from "../tensorMap.js";
import { BOX, type Division, dividePlain, divideQkv, divideSwiglu, MOST_ROWS } from "./fewRowsDivision.js";
import type { RopeTables } from "./rope.js";

/** Up to this width kernels/rmsNorm.cu gives a row 32 threads, whose order of additions kernels/fewRowsHopper.cu has too. */
const WIDEST_NORM = 4096;

/** Whether a product goes to kernels/fewRowsHopper.cu, which gives the bits of cuBLASLt and is made for Hopper's memory. */
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
    spec.n % 8 === 0 &&
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
  const { defines, ...launch } = dividePlain(n, k, device.multiprocessors);
  const fn = device.kernels.get("fewRowsHopper", "few_rows_plain", "sspppiii", defines, launch.shared);
  const weights = boxes(device, w, n, k, 16 * defines.TILES, defines);
  const args = [weights, boxes(device, x, m, k, MOST_ROWS, defines), bias, residual, y, m, n, k];
  device.launch(fn, args, { ...launch, bytes: 2 * n * k, flops: 2 * m * n * k });
}

function boxes(
  { driver }: CudaDevice,
  address: number,
  rows: number,
  columns: number,
  boxRows: number,
  { BOXES }: Division["defines"],
): Uint8Array {
  return tensorMap(driver, { address, rows, columns, boxRows, boxColumns: BOX, boxes: BOXES });
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
    return k <= WIDEST_NORM && n % 16 === 0 && at(norm) % 16 === 0 && isFew(device, x, weight, spec);
  };
  return {
    normSwiglu(x, norm, eps, weight) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      if (!normed(x, norm, weight)) return undefined;
      const half = outputs / 2;
      const y = empty(x.storage.dtype, rows * half, "normSwiglu");
      const { defines, ...launch } = divideSwiglu(outputs, width, device.multiprocessors);
      const fn = device.kernels.get("fewRowsHopper", "few_rows_swiglu", "sppfpiii", defines, launch.shared);
      const weights = boxes(device, at(weight), outputs, width, 8 * defines.TILES, defines);
      const args = [weights, at(x), at(norm), eps, whole(y), rows, half, width];
      device.launch(fn, args, { ...launch, bytes: 2 * outputs * width, flops: 2 * rows * outputs * width });
      return y;
    },

    qkvToCache(x, { norm, eps, weight, bias }, { positions, rows: places }, rotation, cache) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      const { heads, kvHeads, headDim } = rotation;
      if (!normed(x, norm, weight) || headDim % 16 !== 0) return undefined;
      const { defines, ...launch } = divideQkv(outputs, width, headDim, device.multiprocessors);
      const y = empty(x.storage.dtype, rows * outputs, "qkvToCache");
      const { cos, sin, positions: known } = tableFor(rotation);
      const fn = device.kernels.get(
        "fewRowsHopper",
        "few_rows_qkv",
        "sppfppppipppiiiii",
        { ...defines, HEAD_DIM: headDim },
        launch.shared,
      );
      const weights = boxes(device, at(weight), outputs, width, 8 * defines.TILES, defines);
      const sources = [weights, at(x), at(norm), eps, bias ? at(bias) : 0, at(positions), cos, sin, known];
      const args = [...sources, at(places), whole(y), at(cache), cache.shape[0], rows, heads, kvHeads, width];
      device.launch(fn, args, { ...launch, bytes: 2 * outputs * width, flops: 2 * rows * outputs * width });
      return y;
    },
  };
}
