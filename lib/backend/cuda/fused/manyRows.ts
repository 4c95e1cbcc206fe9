import type { ArrayRef, Storage } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { rangeOf } from "../overlaps.js";
import { tensorMap } from "../tensorMap.js";
import { BOX } from "./fewRowsDivision.js";
import { divideManyRows, type ManyDivision, type ManyProduct } from "./manyRowsDivision.js";
import { withNormal } from "./rmsNorm.js";

/** Addresses of x [rows, width], w [gate | up] = [2·half, width] and y [rows, half], bf16. */
export type MlpAddresses = Readonly<Record<"x" | "w" | "y", number>>;

/** The kernel of kernels/manyRowsHopper.cu cut in this way, and its arguments. */
export function manyRowsLaunch(
  { device }: Pick<CudaContext, "device">,
  { x, w, y }: MlpAddresses,
  { rows, half, width }: ManyProduct,
  { defines, shared, group }: ManyDivision,
) {
  const fn = device.kernels.get("manyRowsHopper", "many_rows_swiglu", "sspiiii", defines, shared);
  const boxes = (address: number, count: number, boxRows: number) =>
    tensorMap(device.driver, { address, rows: count, columns: width, boxRows, boxColumns: BOX });
  const maps = [boxes(w, 2 * half, defines.COLUMNS), boxes(x, rows, 128 / defines.COLUMN_BLOCKS)];
  return { fn, args: [...maps, y, rows, half, width, group] };
}

/** swiglu(rmsNorm(x)·weightᵀ) of more than 64 rows, whose product kernels/manyRowsHopper.cu can take, where that is faster. */
export function normSwigluMany(
  context: CudaContext,
  x: ArrayRef,
  norm: ArrayRef,
  eps: number,
  weight: ArrayRef,
): Storage | undefined {
  const { device, empty } = context;
  const [[rows, width], [outputs]] = [x.shape, weight.shape];
  const product = { rows, half: outputs / 2, width };
  const division = divideManyRows(product, device.multiprocessors);
  if (!division) return undefined;
  const y = empty(x.storage.dtype, rows * product.half, "normSwiglu");
  withNormal(context, x, norm, eps, (normal) => {
    const addresses = { x: normal, w: device.address(weight), y: rangeOf(device, y).address };
    const { fn, args } = manyRowsLaunch(context, addresses, product, division);
    device.launch(fn, args, {
      grid: division.grid,
      block: division.block,
      shared: division.shared,
      overlaps: { writes: [rangeOf(device, y)], ahead: [rangeOf(device, weight)] },
      bytes: 2 * (outputs * width + rows * (width + product.half)),
      flops: 2 * rows * outputs * width,
    });
  });
  return y;
}
