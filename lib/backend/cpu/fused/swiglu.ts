import { fastExp } from "../../../exp.js";
import type { FusedKernels } from "../../backend.js";
import type { HostMemory } from "./host.js";

export function swigluKernels(host: HostMemory): Pick<FusedKernels, "swiglu" | "swigluBackward"> {
  return {
    swiglu(x) {
      const xs = host.read(x);
      const [rows, columns] = x.shape;
      const width = columns / 2;
      const y = host.output(x.storage.dtype, rows * width);
      const ys = y.data;
      for (let r = 0; r < rows; r++) {
        for (let j = 0, gate = r * columns, to = r * width; j < width; j++, gate++, to++) {
          const g = xs[gate];
          ys[to] = (g / (1 + fastExp(-g))) * xs[gate + width];
        }
      }
      return y.done();
    },
    swigluBackward(dy, x) {
      const [dys, xs] = [host.read(dy), host.read(x)];
      const [rows, columns] = x.shape;
      const width = columns / 2;
      const dx = host.output(x.storage.dtype, xs.length);
      const out = dx.data;
      for (let r = 0; r < rows; r++) {
        for (let j = 0, gate = r * columns, from = r * width; j < width; j++, gate++, from++) {
          const d = dys[from];
          const g = xs[gate];
          const up = xs[gate + width];
          const s = 1 / (1 + fastExp(-g));
          out[gate] = d * up * s * (1 + g * (1 - s));
          out[gate + width] = d * g * s;
        }
      }
      return dx.done();
    },
  };
}
