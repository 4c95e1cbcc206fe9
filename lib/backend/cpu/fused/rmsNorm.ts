import type { ArrayRef, FusedKernels, HeadLayout } from "../../backend.js";
import { addTo } from "../elementwise.js";
import type { Floats } from "../gemm.js";
import { type HostMemory, wideOf } from "./host.js";

/*
 * Loops over a row take four elements at a time where they can: sums in four parts do not wait for each other, and the
 * bookkeeping around an element costs more than its arithmetic.
 */

/** Normalises `width` elements at `at`; returns 1/rms. */
function normalize(x: Floats, at: number, width: number, weight: Floats, eps: number, y: Floats): number {
  const rstd = 1 / Math.sqrt(sumOfSquares(x, at, width) / width + eps);
  const whole = width & -4;
  for (let j = 0, i = at; j < whole; j += 4, i += 4) {
    y[i] = x[i] * rstd * weight[j];
    y[i + 1] = x[i + 1] * rstd * weight[j + 1];
    y[i + 2] = x[i + 2] * rstd * weight[j + 2];
    y[i + 3] = x[i + 3] * rstd * weight[j + 3];
  }
  for (let j = whole; j < width; j++) y[at + j] = x[at + j] * rstd * weight[j];
  return rstd;
}

function sumOfSquares(x: Floats, at: number, width: number): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = at + (width & -4);
  for (let i = at; i < whole; i += 4) {
    a += x[i] * x[i];
    b += x[i + 1] * x[i + 1];
    c += x[i + 2] * x[i + 2];
    d += x[i + 3] * x[i + 3];
  }
  for (let i = whole; i < at + width; i++) a += x[i] * x[i];
  return a + b + (c + d);
}

/** dx = rstd·(dy·w − x·rstd²·mean(dy·w·x)); adds dy·x·rstd to dWeight. */
function normalizeBackward(
  dy: Floats,
  x: Floats,
  at: number,
  width: number,
  weight: Floats,
  rstd: number,
  dx: Floats,
  dWeight: Float64Array,
): void {
  const scale = (weightedDot(dy, x, at, width, weight) * rstd * rstd * rstd) / width;
  const whole = width & -4;
  for (let j = 0; j < whole; j += 4) {
    elementBackward(dy, x, at, j, weight, rstd, scale, dx, dWeight);
    elementBackward(dy, x, at, j + 1, weight, rstd, scale, dx, dWeight);
    elementBackward(dy, x, at, j + 2, weight, rstd, scale, dx, dWeight);
    elementBackward(dy, x, at, j + 3, weight, rstd, scale, dx, dWeight);
  }
  for (let j = whole; j < width; j++) elementBackward(dy, x, at, j, weight, rstd, scale, dx, dWeight);
}

function elementBackward(
  dy: Floats,
  x: Floats,
  at: number,
  j: number,
  weight: Floats,
  rstd: number,
  scale: number,
  dx: Floats,
  dWeight: Float64Array,
): void {
  const d = dy[at + j] * rstd;
  const value = x[at + j];
  dx[at + j] = d * weight[j] - value * scale;
  dWeight[j] += d * value;
}

/** Σ dy·weight·x over a row. */
function weightedDot(dy: Floats, x: Floats, at: number, width: number, weight: Floats): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = width & -4;
  for (let j = 0, i = at; j < whole; j += 4, i += 4) {
    a += dy[i] * weight[j] * x[i];
    b += dy[i + 1] * weight[j + 1] * x[i + 1];
    c += dy[i + 2] * weight[j + 2] * x[i + 2];
    d += dy[i + 3] * weight[j + 3] * x[i + 3];
  }
  for (let j = whole; j < width; j++) a += dy[at + j] * weight[j] * x[at + j];
  return a + b + (c + d);
}

export function rmsNormKernels(host: HostMemory): Pick<FusedKernels, "rmsNorm" | "rmsNormBackward"> {
  return {
    rmsNorm(x, weight, eps) {
      const [xs, w] = [host.read(x), host.read(weight)];
      const rows = xs.length / w.length;
      const y = host.output(x.storage.dtype, xs.length);
      const rstd = host.output(wideOf(x), rows);
      for (let r = 0; r < rows; r++) rstd.data[r] = normalize(xs, r * w.length, w.length, w, eps, y.data);
      return { y: y.done(), rstd: rstd.done() };
    },
    rmsNormBackward(dy, x, weight, rstd, residual) {
      const [dys, xs, w, rs] = [host.read(dy), host.read(x), host.read(weight), host.read(rstd)];
      const dx = host.output(x.storage.dtype, xs.length);
      const sum = new Float64Array(w.length);
      for (let r = 0; r < rs.length; r++) normalizeBackward(dys, xs, r * w.length, w.length, w, rs[r], dx.data, sum);
      if (residual) addTo(dx.data, host.read(residual));
      return { dx: dx.done(), dWeight: put(host, weight, sum) };
    },
  };
}

export function qkNormKernels(host: HostMemory): Pick<FusedKernels, "qkNorm" | "qkNormBackward"> {
  return {
    qkNorm(x, q, k, layout, eps) {
      const [xs, qw, kw] = [host.read(x), host.read(q), host.read(k)];
      const y = host.output(x.storage.dtype, xs.length);
      const rstd = host.output(wideOf(x), x.shape[0] * (layout.heads + layout.kvHeads));
      y.data.set(xs);
      eachHead(x, layout, (at, isQuery, i) => {
        rstd.data[i] = normalize(xs, at, layout.headDim, isQuery ? qw : kw, eps, y.data);
      });
      return { y: y.done(), rstd: rstd.done() };
    },
    qkNormBackward(dy, x, q, k, rstd, layout) {
      const [dys, xs, qw, kw, rs] = [dy, x, q, k, rstd].map((ref) => host.read(ref));
      const dx = host.output(x.storage.dtype, xs.length);
      const [dq, dk] = [new Float64Array(layout.headDim), new Float64Array(layout.headDim)];
      dx.data.set(dys);
      eachHead(x, layout, (at, isQuery, i) => {
        normalizeBackward(dys, xs, at, layout.headDim, isQuery ? qw : kw, rs[i], dx.data, isQuery ? dq : dk);
      });
      return { dx: dx.done(), dq: put(host, q, dq), dk: put(host, k, dk) };
    },
  };
}

/** Visits every query and key head of a fused projection: its first element, whose weights it takes, its number. */
function eachHead(
  x: ArrayRef,
  { heads, kvHeads, headDim }: HeadLayout,
  visit: (at: number, isQuery: boolean, index: number) => void,
): void {
  const [tokens, width] = x.shape;
  const count = heads + kvHeads;
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < count; h++) visit(t * width + h * headDim, h < heads, t * count + h);
  }
}

function put(host: HostMemory, like: ArrayRef, values: Float64Array) {
  const out = host.output(like.storage.dtype, values.length);
  out.data.set(values);
  return out.done();
}
