import type { ArrayRef, FusedKernels } from "../../backend.js";
import type { CudaContext } from "../context.js";
import { cType, indexLetter, indexType, loopGrid, packWidth } from "../launch.js";

export function swigluKernels({ device, empty }: CudaContext): Pick<FusedKernels, "swiglu" | "swigluBackward"> {
  const defines = (x: ArrayRef, VEC: number, letter: "i" | "l") => ({
    ...{ DTYPE: cType("swiglu", x.storage.dtype), VEC, INDEX: indexType[letter] },
  });
  return {
    swiglu(x) {
      const [rows, columns] = x.shape;
      const width = columns / 2;
      const y = empty(x.storage.dtype, rows * width, "swiglu");
      const VEC = packWidth(device, width, x);
      const packs = (rows * width) / VEC;
      const letter = indexLetter(packs);
      const fn = device.kernels.get("swiglu", "swiglu", `pp${letter}i`, defines(x, VEC, letter));
      device.launch(fn, [device.address(x), device.address({ storage: y, offset: 0, shape: [] }), packs, width], {
        grid: loopGrid(device, packs, 256),
        block: 256,
        overlaps: "waits",
        bytes: 6 * rows * width,
      });
      return y;
    },
    swigluBackward(dy, x) {
      const [rows, columns] = x.shape;
      const width = columns / 2;
      const dx = empty(x.storage.dtype, rows * columns, "swiglu gradient");
      const VEC = packWidth(device, width, x, dy);
      const packs = (rows * width) / VEC;
      const letter = indexLetter(packs);
      const fn = device.kernels.get("swiglu", "swiglu_backward", `ppp${letter}i`, defines(x, VEC, letter));
      const out = device.address({ storage: dx, offset: 0, shape: [] });
      device.launch(fn, [device.address(dy), device.address(x), out, packs, width], {
        grid: loopGrid(device, packs, 256),
        block: 256,
        bytes: 10 * rows * width,
      });
      return dx;
    },
  };
}
