import type { ArrayRef, FusedKernels, MatmulSpec, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { CudaDevice, Launch } from "../device.js";
import { type Overlap, rangeOf } from "../overlaps.js";
import { tensorMap } from "../tensorMap.js";
import { BOX } from "./fewRowsDivision.js";
import { withNormal } from "./rmsNorm.js";
import type { RopeTables } from "./rope.js";
import { divideSeveralRows, X_ROWS } from "./severalRowsDivision.js";

/** Addresses of a product's operands and of what is added, 0 for nothing. */
export type ProductAddresses = Readonly<Record<"x" | "w" | "bias" | "residual" | "y", number>>;

/** The map of a matrix that the kernels of few and several rows copy in stages of `BOXES` boxes. */
export function boxes(
  { driver }: CudaDevice,
  address: number,
  rows: number,
  columns: number,
  boxRows: number,
  { BOXES }: { readonly BOXES: number },
): Uint8Array {
  return tensorMap(driver, { address, rows, columns, boxRows, boxColumns: BOX, boxes: BOXES });
}

/** What a product of bf16 reads of its weights, and does. */
export function costs({ m, n, k }: Pick<MatmulSpec, "m" | "n" | "k">): Pick<Launch, "bytes" | "flops"> {
  return { bytes: 2 * n * k, flops: 2 * m * n * k };
}

/** What a product of bf16 writes, and reads before its turn. */
export function productOverlap({ w, y }: ProductAddresses, { m, n, k }: MatmulSpec): Overlap {
  return { writes: [{ address: y, bytes: 2 * m * n }], ahead: [{ address: w, bytes: 2 * n * k }] };
}

/** Enqueues y = x·wᵀ (+ bias) (+ residual) of up to 64 rows. */
export function multiplySeveral(device: CudaDevice, addresses: ProductAddresses, spec: MatmulSpec): void {
  const { x, w, bias, residual, y } = addresses;
  const { m, n, k } = spec;
  const product = { rows: m, outputs: n, width: k, halves: 1 } as const;
  const { defines, ...launch } = divideSeveralRows(product, device.multiprocessors);
  const fn = device.kernels.get("severalRowsHopper", "several_rows_plain", "sspppiii", defines, launch.shared);
  const weights = boxes(device, w, n, k, defines.OUTPUTS, defines);
  const args = [weights, boxes(device, x, m, k, X_ROWS, defines), bias, residual, y, m, n, k];
  device.launch(fn, args, { ...launch, ...costs(spec), overlaps: productOverlap(addresses, spec) });
}

/** For up to 64 rows whose products kernels/severalRowsHopper.cu can take. */
export function severalRowsKernels(
  context: CudaContext,
  tableFor: RopeTables,
): { readonly [K in "normSwiglu" | "qkvToCache"]: (...args: Parameters<FusedKernels[K]>) => Storage } {
  const { device, empty } = context;
  const whole = (storage: Storage) => device.address({ storage, offset: 0, shape: [] });
  return {
    normSwiglu(x, norm, eps, weight) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      const half = outputs / 2;
      const y = empty(x.storage.dtype, rows * half, "normSwiglu");
      withNormal(context, x, norm, eps, (normal) => {
        const { defines, ...launch } = divideSeveralRows({ rows, outputs, width, halves: 2 }, device.multiprocessors);
        const fn = device.kernels.get("severalRowsHopper", "several_rows_swiglu", "sspiii", defines, launch.shared);
        const weights = boxes(device, device.address(weight), outputs, width, defines.OUTPUTS, defines);
        const args = [weights, boxes(device, normal, rows, width, X_ROWS, defines), whole(y), rows, half, width];
        const overlaps = { writes: [rangeOf(device, y)], ahead: [rangeOf(device, weight)] };
        device.launch(fn, args, { ...launch, ...costs({ m: rows, n: outputs, k: width }), overlaps });
      });
      return y;
    },

    qkvToCache(x, { norm, eps, weight, bias }, { positions, rows: places }, rotation, cache) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      const { heads, kvHeads, headDim } = rotation;
      const y = empty(x.storage.dtype, rows * outputs, "qkvToCache");
      const at = (array: ArrayRef) => device.address(array);
      withNormal(context, x, norm, eps, (normal) => {
        const product = { rows, outputs, width, halves: 2, apart: headDim / 2 } as const;
        const { defines, ...launch } = divideSeveralRows(product, device.multiprocessors);
        const all = { ...defines, HEAD_DIM: headDim };
        const fn = device.kernels.get("severalRowsHopper", "several_rows_qkv", "ssppppipppiiiii", all, launch.shared);
        const weights = boxes(device, at(weight), outputs, width, defines.OUTPUTS, defines);
        const sources = [weights, boxes(device, normal, rows, width, X_ROWS, defines), bias ? at(bias) : 0];
        const { cos, sin, positions: known } = tableFor(rotation);
        const turned = [at(positions), cos, sin, known, at(places)];
        const args = [...sources, ...turned, whole(y), at(cache), cache.shape[0], rows, heads, kvHeads, width];
        const writes = [rangeOf(device, y), rangeOf(device, cache)];
        const overlaps = { writes, ahead: [rangeOf(device, weight)] };
        device.launch(fn, args, { ...launch, ...costs({ m: rows, n: outputs, k: width }), overlaps });
      });
      return y;
    },
  };
}
