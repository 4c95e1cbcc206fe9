import type { FusedKernels, Rotation } from "../../backend.js";
import type { Floats } from "../gemm.js";
import type { HostMemory } from "./host.js";

interface Table {
  readonly positions: number;
  readonly cos: Float64Array;
  readonly sin: Float64Array;
}

const tables = new Map<string, Table>();

/** Cosines and sines [positions, headDim / 2], kept and grown as longer sequences come. */
function rotationTable({ theta, headDim }: Rotation, positions: number): Table {
  const key = `${theta} ${headDim}`;
  const known = tables.get(key);
  if (known && known.positions >= positions) return known;
  const half = headDim / 2;
  const count = Math.max(positions, 2 * (known?.positions ?? 64));
  const table = { positions: count, cos: new Float64Array(count * half), sin: new Float64Array(count * half) };
  for (let j = 0; j < half; j++) {
    const frequency = theta ** (-j / half);
    for (let p = 0; p < count; p++) {
      table.cos[p * half + j] = Math.cos(p * frequency);
      table.sin[p * half + j] = Math.sin(p * frequency);
    }
  }
  tables.set(key, table);
  return table;
}

export function ropeKernels(host: HostMemory): Pick<FusedKernels, "rope"> {
  return {
    rope(x, positions, rotation, direction) {
      const [xs, at] = [host.read(x), host.readInts(positions)];
      let last = 0;
      for (let t = 0; t < at.length; t++) if (at[t] > last) last = at[t];
      const table = rotationTable(rotation, last + 1);
      const y = host.output(x.storage.dtype, xs.length);
      y.data.set(xs);
      const rotated = (rotation.heads + rotation.kvHeads) * rotation.headDim;
      rotate(y.data, x.shape[1], at, table.cos, table.sin, direction, rotated, rotation.headDim);
      return y.done();
    },
  };
}

/** In place: turns the first `rotated` of `width` elements of every row. */
function rotate(
  y: Floats,
  width: number,
  positions: Int32Array,
  cos: Float64Array,
  sin: Float64Array,
  direction: number,
  rotated: number,
  headDim: number,
): void {
  const half = headDim / 2;
  for (let t = 0; t < positions.length; t++) {
    const row = t * width;
    const end = row + rotated;
    const angle = positions[t] * half;
    for (let j = 0; j < half; j++) {
      const c = cos[angle + j];
      const s = direction * sin[angle + j];
      for (let i = row + j; i < end; i += headDim) {
        const a = y[i];
        const b = y[i + half];
        y[i] = a * c - b * s;
        y[i + half] = b * c + a * s;
      }
    }
  }
}
