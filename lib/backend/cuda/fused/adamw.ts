import { sizeOf } from "../../../shape.js";
import type { AdamwSlot, ArrayRef, FusedKernels } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { cType } from "../launch.js";

/** As in kernels/adamw.cu. */
const CHUNK = 8192;

type AdamwKernels = Pick<FusedKernels, "adamw" | "adamwMany" | "sumSquares">;

/** One row of a table of arrays: addresses, then size and number of the first chunk. */
interface Row {
  readonly addresses: readonly number[];
  readonly size: number;
}

export function adamwKernels({ device, empty }: CudaContext): AdamwKernels {
  /** Runs `fn` with the table on the device and the number of chunks of all its rows. */
  const withTable = (rows: readonly Row[], label: string, fn: (table: number, chunks: number) => void): void => {
    let chunks = 0;
    const words = rows.flatMap(({ addresses, size }) => {
      const row = [...addresses, size, chunks];
      chunks += Math.ceil(size / CHUNK);
      return row;
    });
    device.withScratch(8 * words.length, label, (table) => {
      device.copyIn(table, new Uint32Array(BigUint64Array.from(words, BigInt).buffer));
      fn(table, chunks);
    });
  };

  const adamwMany: AdamwKernels["adamwMany"] = (slots, { lr, beta1, beta2, eps, weightDecay, step, gradScale }) => {
    const own = (slot: AdamwSlot) => slot.param.storage === slot.master.storage;
    for (const dtype of new Set(slots.map(({ param }) => param.storage.dtype))) {
      const rows = slots
        .filter(({ param }) => param.storage.dtype === dtype)
        .map((slot) => ({
          addresses: [
            own(slot) ? 0 : device.address(slot.param),
            ...[slot.master, slot.grad, slot.m, slot.v].map((array) => device.address(array)),
          ],
          size: sizeOf(slot.master.shape),
        }));
      const fn = device.kernels.get("adamw", "adamw", "pifffffffff", { DTYPE: cType("adamw", dtype) });
      const [stepSize, correction] = [lr / (1 - beta1 ** step), 1 / Math.sqrt(1 - beta2 ** step)];
      const keep = 1 - lr * weightDecay;
      const factors = [gradScale, beta1, 1 - beta1, beta2, 1 - beta2, stepSize, correction, eps, keep];
      const elements = rows.reduce((sum, { size }) => sum + size, 0);
      withTable(rows, "adamw table", (table, chunks) => {
        device.launch(fn, [table, rows.length, ...factors], {
          grid: [chunks],
          block: 256,
          bytes: elements * (dtype === "f32" ? 28 : 30),
        });
      });
    }
  };

  return {
    adamw: (param, master, grad, m, v, step) => adamwMany([{ param, master, grad, m, v }], step),
    adamwMany,
    sumSquares(arrays: readonly ArrayRef[]) {
      const sum = empty("f32", 1, "sum of squares");
      const rows = arrays.map((array) => {
        if (array.storage.dtype !== "f32") throw new Error(`sumSquares: it needs f32, not ${array.storage.dtype}`);
        return { addresses: [device.address(array)], size: sizeOf(array.shape) };
      });
      const elements = rows.reduce((total, { size }) => total + size, 0);
      withTable(rows, "sum of squares table", (table, chunks) => {
        device.withScratch(4 * chunks, "sum of squares scratch", (partial) => {
          const defines = { DTYPE: "float" };
          const fn = device.kernels.get("adamw", "sum_squares", "pip", defines);
          device.launch(fn, [table, rows.length, partial], { grid: [chunks], block: 256, bytes: 4 * elements });
          const finish = device.kernels.get("adamw", "add_partials", "plp", defines);
          const out = device.address({ storage: sum, offset: 0, shape: [] });
          device.launch(finish, [partial, chunks, out], { grid: [1], block: 256 });
        });
      });
      return sum;
    },
  };
}
