import type { Backend, FusedKernels } from "../backend.js";
import type { Engine } from "./engines.js";
import type { EngineMemory } from "./memory.js";
import type { Run } from "./operations.js";

/**
 * The kernels of the cpu backend with the engine's sigmoid: the host's exponential takes longer than all the rest, and the
 * wasm engine's is ten times as fast.
 */
export function swigluKernels(
  { tf, host: traits }: Engine,
  memory: EngineMemory,
  run: Run,
  host: Backend,
): Pick<FusedKernels, "swiglu" | "swigluBackward"> {
  const { view } = traits!;
  return {
    swiglu(x) {
      const [rows, columns] = x.shape;
      const width = columns / 2;
      const y = host.fill("f32", rows * width, 0);
      const ys = y.handle as Float32Array;
      run(() => {
        const input = memory.tensor(x);
        const sigmoid = tf.sigmoid(input);
        const [xs, ss] = [view(input), view(sigmoid)];
        for (let r = 0; r < rows; r++) {
          for (let j = 0, gate = r * columns, to = r * width; j < width; j++, gate++, to++) {
            ys[to] = xs[gate] * ss[gate] * xs[gate + width];
          }
        }
      });
      return memory.put("f32", y.size, y);
    },

    swigluBackward(dy, x) {
      const [rows, columns] = x.shape;
      const width = columns / 2;
      const dx = host.fill("f32", rows * columns, 0);
      const out = dx.handle as Float32Array;
      run(() => {
        const [input, gradient] = [memory.tensor(x), memory.tensor(dy)];
        const sigmoid = tf.sigmoid(input);
        const [xs, ss, dys] = [view(input), view(sigmoid), view(gradient)];
        for (let r = 0; r < rows; r++) {
          for (let j = 0, gate = r * columns, from = r * width; j < width; j++, gate++, from++) {
            const g = xs[gate];
            const s = ss[gate];
            const d = dys[from] * s;
            out[gate] = d * xs[gate + width] * (1 + g * (1 - s));
            out[gate + width] = d * g;
          }
        }
      });
      return memory.put("f32", dx.size, dx);
    },
  };
}
