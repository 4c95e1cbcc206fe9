import type { ArrayRef, FusedKernels, MatmulSpec, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import type { CudaDevice } from "../device.js";
import { rangeOf } from "../overlaps.js";
import { dividePlain, divideQkv, divideSwiglu, MOST_FEW } from "./fewRowsDivision.js";
import { normSwigluMany } from "./manyRows.js";
import type { RopeTables } from "./rope.js";
import {
  boxes,
  costs,
  multiplySeveral,
  type ProductAddresses,
  productOverlap,
  severalRowsKernels,
} from "./severalRows.js";
import { MOST_SEVERAL } from "./severalRowsDivision.js";

/** Up to this width kernels/rmsNorm.cu gives a row 32 threads, whose order of additions kernels/fewRowsHopper.cu has too. */
const WIDEST_NORM = 4096;

/**
 * Whether a product, to which `terms` are added, goes to kernels/fewRowsHopper.cu or severalRowsHopper.cu, which give the bits
 * of cuBLASLt and are made for Hopper's memory.
 */
export function isFew(...product: Parameters<typeof suitsHopper>): boolean {
  const [, , , { m }] = product;
  return m <= MOST_SEVERAL && suitsHopper(...product);
}

/** Whether the kernels for Hopper can take a product, but for the number of rows. */
function suitsHopper(
  device: CudaDevice,
  a: ArrayRef,
  b: ArrayRef,
  spec: MatmulSpec,
  terms: readonly (ArrayRef | undefined)[] = [],
): boolean {
  return (
    device.capability === 90 &&
    a.storage.dtype === "bf16" &&
    spec.batch === 1 &&
    spec.m > 0 &&
    !spec.transposeA &&
    spec.transposeB &&
    spec.n >= 256 &&
    spec.n % 8 === 0 &&
    spec.k >= 256 &&
    spec.k % 64 === 0 &&
    [a, b].every((x) => device.address(x) % 16 === 0) &&
    terms.every((x) => !x || device.address(x) % 4 === 0)
  );
}

/** Enqueues y = x·wᵀ (+ bias) (+ residual). */
export function multiplyFew(device: CudaDevice, addresses: ProductAddresses, spec: MatmulSpec): void {
  const { m, n, k } = spec;
  if (m > MOST_FEW) {
    multiplySeveral(device, addresses, spec);
    return;
  }
  const { x, w, bias, residual, y } = addresses;
  const { defines, ...launch } = dividePlain(n, k, device.multiprocessors);
  const fn = device.kernels.get("fewRowsHopper", "few_rows_plain", "sspppiii", defines, launch.shared);
  const weights = boxes(device, w, n, k, 16 * defines.TILES, defines);
  const args = [weights, boxes(device, x, m, k, MOST_FEW, defines), bias, residual, y, m, n, k];
  device.launch(fn, args, { ...launch, ...costs(spec), overlaps: productOverlap(addresses, spec) });
}

export function fewRowsKernels(
  context: CudaContext,
  tableFor: RopeTables,
): Pick<FusedKernels, "normSwiglu" | "qkvToCache"> {
  const { device, empty } = context;
  const several = severalRowsKernels(context, tableFor);
  const at = (x: ArrayRef) => device.address(x);
  const whole = (storage: Storage) => at({ storage, offset: 0, shape: [] });
  const fits = (x: ArrayRef, weight: ArrayRef, bias?: ArrayRef): boolean => {
    const [[m, k], [n]] = [x.shape, weight.shape];
    const spec = { batch: 1, m, n, k, transposeA: false, transposeB: true };
    return n % 16 === 0 && suitsHopper(device, x, weight, spec, [bias]);
  };
  const normed = (x: ArrayRef, norm: ArrayRef): boolean => x.shape[1] <= WIDEST_NORM && at(norm) % 16 === 0;
  return {
    normSwiglu(x, norm, eps, weight) {
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      if (!fits(x, weight)) return undefined;
      if (rows > MOST_SEVERAL) return normSwigluMany(context, x, norm, eps, weight);
      if (rows > MOST_FEW) return several.normSwiglu(x, norm, eps, weight);
      if (!normed(x, norm)) return undefined;
      const half = outputs / 2;
      const y = empty(x.storage.dtype, rows * half, "normSwiglu");
      const { defines, ...launch } = divideSwiglu(outputs, width, device.multiprocessors);
      const fn = device.kernels.get("fewRowsHopper", "few_rows_swiglu", "sppfpiii", defines, launch.shared);
      const weights = boxes(device, at(weight), outputs, width, 8 * defines.TILES, defines);
      const args = [weights, at(x), at(norm), eps, whole(y), rows, half, width];
      const overlaps = { writes: [rangeOf(device, y)], ahead: [rangeOf(device, weight), rangeOf(device, norm)] };
      device.launch(fn, args, { ...launch, ...costs({ m: rows, n: outputs, k: width }), overlaps });
      return y;
    },

    qkvToCache(x, weights, placement, rotation, cache) {
      const { norm, eps, weight, bias } = weights;
      const { positions, rows: places } = placement;
      const [[rows, width], [outputs]] = [x.shape, weight.shape];
      const { heads, kvHeads, headDim } = rotation;
      if (rows > MOST_SEVERAL || headDim % 16 !== 0 || !fits(x, weight, bias)) return undefined;
      if (rows > MOST_FEW) return several.qkvToCache(x, weights, placement, rotation, cache);
      if (!normed(x, norm)) return undefined;
      const { defines, ...launch } = divideQkv(outputs, width, headDim, device.multiprocessors);
      const { cos, sin, positions: known } = tableFor(rotation);
      const y = empty(x.storage.dtype, rows * outputs, "qkvToCache");
      const fn = device.kernels.get(
        "fewRowsHopper",
        "few_rows_qkv",
        "sppfppppipppiiiii",
        { ...defines, HEAD_DIM: headDim },
        launch.shared,
      );
      const weightBoxes = boxes(device, at(weight), outputs, width, 8 * defines.TILES, defines);
      const sources = [weightBoxes, at(x), at(norm), eps, bias ? at(bias) : 0, at(positions), cos, sin, known];
      const args = [...sources, at(places), whole(y), at(cache), cache.shape[0], rows, heads, kvHeads, width];
      const writes = [rangeOf(device, y), rangeOf(device, cache)];
      const ahead = [rangeOf(device, weight), rangeOf(device, norm)];
      device.launch(fn, args, { ...launch, ...costs({ m: rows, n: outputs, k: width }), overlaps: { writes, ahead } });
      return y;
    },
  };
}
