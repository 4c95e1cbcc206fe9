import { fastExp } from "../../../exp.js";
import type { FusedKernels } from "../../backend.js";
import type { Floats } from "../gemm.js";
import type { HostMemory } from "./host.js";

export function swigluKernels(host: HostMemory): Pick<FusedKernels, "swiglu" | "swigluBackward"> {
  return {
    swiglu(x) {
      const [rows, columns] = x.shape;
      const y = host.output(x.storage.dtype, (rows * columns) / 2);
      forward(host.read(x), y.data, columns / 2);
      return y.done();
    },
    swigluBackward(dy, x) {
      const xs = host.read(x);
      const dx = host.output(x.storage.dtype, xs.length);
      backward(host.read(dy), xs, dx.data, x.shape[1] / 2);
      return dx.done();
    },
  };
}

function forward(x: Floats, y: Floats, width: number): void {
  for (let row = 0, gate = 0; row < y.length; row += width, gate += width) {
    for (let to = row; to < row + width; to++, gate++) {
      const g = x[gate];
      y[to] = (g / (1 + fastExp(-g))) * x[gate + width];
    }
  }
}

function backward(dy: Floats, x: Floats, dx: Floats, width: number): void {
  for (let row = 0, gate = 0; row < dy.length; row += width, gate += width) {
    for (let from = row; from < row + width; from++, gate++) {
      const d = dy[from];
      const g = x[gate];
      const s = 1 / (1 + fastExp(-g));
      dx[gate] = d * x[gate + width] * s * (1 + g * (1 - s));
      dx[gate + width] = d * g * s;
    }
  }
}
