import { fastExp } from "../../../exp.js";
import type { FusedKernels, HeadLayout, PagedContext } from "../../backend.js";
import type { Floats, Gemm } from "../gemm.js";
import { type HostMemory, wideOf } from "./host.js";

/** Query rows that are scored together: bounds the score matrix to block × length. */
const BLOCK = 256;

/** One head of one sequence's queries against its keys; matrices lie in larger ones with their own row pitch. */
interface Head {
  readonly queries: number;
  /** Query i sees keys 0 … first + i. */
  readonly first: number;
  readonly headDim: number;
  readonly q: Floats;
  readonly qPitch: number;
  readonly k: Floats;
  readonly v: Floats;
  readonly kvPitch: number;
}

export function attentionKernels(
  host: HostMemory,
): Pick<FusedKernels, "attention" | "attentionBackward" | "pagedAttention"> {
  return {
    attention(x, offsets, layout) {
      const xs = host.read(x);
      const [tokens, width] = x.shape;
      const out = host.output(x.storage.dtype, tokens * layout.heads * layout.headDim);
      const lse = host.output(wideOf(x), tokens * layout.heads);
      const scores = host.scratch(xs, scoreSize(offsets));
      eachHead(xs, width, offsets, layout, (head, row, h) => {
        const y = out.data.subarray((row * layout.heads + h) * layout.headDim);
        forward(host.gemm, head, scores, y, layout.heads * layout.headDim, (i, value) => {
          lse.data[(row + i) * layout.heads + h] = value;
        });
      });
      host.release(scores);
      return { y: out.done(), lse: lse.done() };
    },

    attentionBackward(dy, x, y, lse, offsets, layout) {
      const [dys, xs, ys, ls] = [host.read(dy), host.read(x), host.read(y), host.read(lse)];
      const [, width] = x.shape;
      const { heads, kvHeads, headDim } = layout;
      const dx = host.output(x.storage.dtype, xs.length);
      dx.data.fill(0);
      const size = scoreSize(offsets);
      const [p, ds] = [host.scratch(xs, size), host.scratch(xs, size)];
      const outPitch = heads * headDim;
      eachHead(xs, width, offsets, layout, (head, row, h) => {
        const kv = Math.floor((h * kvHeads) / heads);
        const at = row * outPitch + h * headDim;
        const into = (column: number) => dx.data.subarray(row * width + column * headDim);
        backward(
          host.gemm,
          head,
          {
            dy: dys.subarray(at),
            y: ys.subarray(at),
            pitch: outPitch,
            lse: ls.subarray(row * heads + h),
            lsePitch: heads,
          },
          { dq: into(h), dk: into(heads + kv), dv: into(heads + kvHeads + kv), pitch: width },
          p,
          ds,
        );
      });
      host.release(p);
      host.release(ds);
      return dx.done();
    },

    pagedAttention(x, cache, context, layout) {
      const [xs, rows] = [host.read(x), host.read(cache)];
      const [tokens, width] = x.shape;
      const { heads, kvHeads, headDim } = layout;
      const { offsets, lengths } = context;
      const out = host.output(x.storage.dtype, tokens * heads * headDim);
      const longest = lengths.reduce((a, b) => Math.max(a, b), 0);
      const pitch = 2 * kvHeads * headDim;
      const scores = host.scratch(xs, Math.max(1, Math.min(BLOCK, tokens) * longest));
      const gathered = host.scratch(xs, longest * pitch);
      for (let s = 0; s < lengths.length; s++) {
        const queries = offsets[s + 1] - offsets[s];
        if (queries === 0) continue;
        gatherPages(rows, pitch, context, s, gathered);
        for (let h = 0; h < heads; h++) {
          const kv = Math.floor((h * kvHeads) / heads);
          const head: Head = {
            queries,
            first: lengths[s] - queries,
            headDim,
            q: xs.subarray(offsets[s] * width + h * headDim),
            qPitch: width,
            k: gathered.subarray(kv * headDim),
            v: gathered.subarray((kvHeads + kv) * headDim),
            kvPitch: pitch,
          };
          forward(host.gemm, head, scores, out.data.subarray((offsets[s] * heads + h) * headDim), heads * headDim);
        }
      }
      host.release(scores);
      host.release(gathered);
      return out.done();
    },
  };
}

function scoreSize(offsets: Int32Array): number {
  let longest = 1;
  for (let s = 1; s < offsets.length; s++) longest = Math.max(longest, offsets[s] - offsets[s - 1]);
  return Math.min(BLOCK, longest) * longest;
}

function gatherPages(rows: Floats, pitch: number, context: PagedContext, s: number, target: Floats): void {
  const { pages, pageSize, lengths } = context;
  for (let from = 0, page = 0; from < lengths[s]; from += pageSize, page++) {
    const count = Math.min(pageSize, lengths[s] - from);
    const start = pages[s][page] * pageSize * pitch;
    if (!(start >= 0 && start + count * pitch <= rows.length)) {
      throw new Error(`pagedAttention: page ${pages[s][page]} of sequence ${s} lies outside the cache`);
    }
    target.set(rows.subarray(start, start + count * pitch), from * pitch);
  }
}

function eachHead(
  xs: Floats,
  width: number,
  offsets: Int32Array,
  { heads, kvHeads, headDim }: HeadLayout,
  visit: (head: Head, row: number, h: number) => void,
): void {
  for (let s = 0; s + 1 < offsets.length; s++) {
    const row = offsets[s];
    const queries = offsets[s + 1] - row;
    if (queries === 0) continue;
    for (let h = 0; h < heads; h++) {
      const kv = Math.floor((h * kvHeads) / heads);
      const at = (column: number) => xs.subarray(row * width + column * headDim);
      const [q, k, v] = [at(h), at(heads + kv), at(heads + kvHeads + kv)];
      visit({ queries, first: 0, headDim, q, qPitch: width, k, v, kvPitch: width }, row, h);
    }
  }
}

/** y = softmax(q·kᵀ/√d)·v block by block of queries; reports each query's log Σ exp. */
function forward(
  gemm: Gemm,
  head: Head,
  scores: Floats,
  y: Floats,
  yPitch: number,
  onLse?: (query: number, value: number) => void,
): void {
  const { headDim, first, q, qPitch, k, v, kvPitch } = head;
  for (let from = 0; from < head.queries; from += BLOCK) {
    const count = Math.min(BLOCK, head.queries - from);
    const keys = first + from + count;
    gemm(
      false,
      true,
      count,
      keys,
      headDim,
      headDim ** -0.5,
      q.subarray(from * qPitch),
      qPitch,
      k,
      kvPitch,
      0,
      scores,
      keys,
    );
    for (let i = 0; i < count; i++) {
      const value = softmaxRow(scores, i * keys, first + from + i + 1, keys);
      onLse?.(from + i, value);
    }
    gemm(false, false, count, headDim, keys, 1, scores, keys, v, kvPitch, 0, y.subarray(from * yPitch), yPitch);
  }
}

/** Softmax of the first `visible` of `length` elements, zeros after them; returns log Σ exp. */
function softmaxRow(x: Floats, at: number, visible: number, length: number): number {
  let best = Number.NEGATIVE_INFINITY;
  for (let j = at; j < at + visible; j++) if (x[j] > best) best = x[j];
  let sum = 0;
  for (let j = at; j < at + visible; j++) sum += x[j] = fastExp(x[j] - best);
  const scale = 1 / sum;
  for (let j = at; j < at + visible; j++) x[j] *= scale;
  for (let j = at + visible; j < at + length; j++) x[j] = 0;
  return best + Math.log(sum);
}

interface Outgoing {
  readonly dy: Floats;
  readonly y: Floats;
  readonly pitch: number;
  readonly lse: Floats;
  readonly lsePitch: number;
}

interface Incoming {
  readonly dq: Floats;
  readonly dk: Floats;
  readonly dv: Floats;
  readonly pitch: number;
}

/** P from q, k and lse; dv += Pᵀ·dy; dS = P∘(dy·vᵀ − Σ dy·y); dq = dS·k/√d; dk += dSᵀ·q/√d. */
function backward(gemm: Gemm, head: Head, out: Outgoing, grad: Incoming, p: Floats, ds: Floats): void {
  const { headDim, q, qPitch, k, v, kvPitch } = head;
  const scale = headDim ** -0.5;
  for (let from = 0; from < head.queries; from += BLOCK) {
    const count = Math.min(BLOCK, head.queries - from);
    const keys = from + count;
    const dy = out.dy.subarray(from * out.pitch);
    const queries = q.subarray(from * qPitch);
    gemm(false, true, count, keys, headDim, scale, queries, qPitch, k, kvPitch, 0, p, keys);
    gemm(false, true, count, keys, headDim, 1, dy, out.pitch, v, kvPitch, 0, ds, keys);
    for (let i = 0; i < count; i++) {
      const lse = out.lse[(from + i) * out.lsePitch];
      let delta = 0;
      for (let j = 0, at = (from + i) * out.pitch; j < headDim; j++, at++) delta += out.dy[at] * out.y[at];
      softmaxRowBackward(p, ds, i * keys, from + i + 1, keys, lse, delta);
    }
    gemm(true, false, keys, headDim, count, 1, p, keys, dy, out.pitch, 1, grad.dv, grad.pitch);
    const dq = grad.dq.subarray(from * grad.pitch);
    gemm(false, false, count, headDim, keys, scale, ds, keys, k, kvPitch, 0, dq, grad.pitch);
    gemm(true, false, keys, headDim, count, scale, ds, keys, queries, qPitch, 1, grad.dk, grad.pitch);
  }
}

/** Scores to probabilities and, in `ds`, ∂loss/∂probability to ∂loss/∂score; zeros after the `visible` elements. */
function softmaxRowBackward(
  p: Floats,
  ds: Floats,
  at: number,
  visible: number,
  length: number,
  lse: number,
  delta: number,
): void {
  for (let j = at; j < at + visible; j++) {
    const probability = fastExp(p[j] - lse);
    p[j] = probability;
    ds[j] = probability * (ds[j] - delta);
  }
  for (let j = at + visible; j < at + length; j++) p[j] = ds[j] = 0;
}
