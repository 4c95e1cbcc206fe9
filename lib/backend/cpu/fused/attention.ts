import { fastExp } from "../../../exp.js";
import type { FusedKernels, HeadLayout, PagedContext } from "../../backend.js";
import type { Floats, Gemm } from "../gemm.js";
import { type HostMemory, wideOf } from "./host.js";

/** Query rows that are scored together: bounds the score matrix to block × length. */
const BLOCK = 256;

/**
 * Keys of one product. Those of a sequence are cut at multiples of it, so that sums over them are taken in one order
 * however many keys a query's block has.
 */
const KEYS = 256;

/** Width of a fused projection up to which a query's result does not depend on the other queries, to the bit. */
const WIDEST_EXACT = 512;

/** One head of one sequence; its matrices lie in larger ones with their own row pitch. */
interface Head {
  readonly queries: number;
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
      const { heads, kvHeads, headDim } = layout;
      const outPitch = heads * headDim;
      const out = host.output(x.storage.dtype, tokens * outPitch);
      const lse = host.output(wideOf(x), tokens * heads);
      const forward = forwardPass(host, xs, layout, longestOf(offsets), longestOf(offsets));
      for (let s = 0; s + 1 < offsets.length; s++) {
        const [row, queries] = [offsets[s], offsets[s + 1] - offsets[s]];
        const past = { first: 0, k: heads * headDim, v: (heads + kvHeads) * headDim, kvPitch: width };
        const own = forward.load(xs.subarray(row * width, (row + queries) * width));
        forward.run({ ...past, queries, keysAndValues: own }, out.data.subarray(row * outPitch), (i, h, value) => {
          lse.data[(row + i) * heads + h] = value;
        });
      }
      forward.release();
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
      const forward = forwardPass(host, xs, layout, longestOf(offsets), longest);
      const kvPitch = 2 * kvHeads * headDim;
      const gathered = host.scratch(xs, forward.padded(longest) * kvPitch);
      for (let s = 0; s < lengths.length; s++) {
        const queries = offsets[s + 1] - offsets[s];
        if (queries === 0) continue;
        gatherPages(rows, kvPitch, context, s, gathered);
        gathered.fill(0, lengths[s] * kvPitch, forward.padded(lengths[s]) * kvPitch);
        forward.load(xs.subarray(offsets[s] * width, offsets[s + 1] * width));
        const past = { first: lengths[s] - queries, k: 0, v: kvHeads * headDim, kvPitch };
        forward.run({ ...past, queries, keysAndValues: gathered }, out.data.subarray(offsets[s] * heads * headDim));
      }
      forward.release();
      host.release(gathered);
      return out.done();
    },
  };
}

function longestOf(offsets: Int32Array): number {
  let longest = 0;
  for (let s = 1; s < offsets.length; s++) longest = Math.max(longest, offsets[s] - offsets[s - 1]);
  return longest;
}

/** One sequence's newest queries and everything they see. */
interface Past {
  readonly queries: number;
  /** Query i sees keys 0 … first + i. */
  readonly first: number;
  /** Keys and values, with zeros after the last up to a full block. */
  readonly keysAndValues: Floats;
  /** Where the first key and value head start in a row. */
  readonly k: number;
  readonly v: number;
  readonly kvPitch: number;
}

/**
 * y = softmax(q·kᵀ/√d)·v of one sequence after the other. Where the width allows it, queries come in blocks of the rows
 * that the product computes alike, and keys are filled up to as many: a query's result then has the same bits in every
 * batch, from the cache as from the packed forward pass.
 */
function forwardPass(host: HostMemory, like: Floats, layout: HeadLayout, mostQueries: number, mostKeys: number) {
  const { heads, kvHeads, headDim } = layout;
  const width = (heads + 2 * kvHeads) * headDim;
  const outPitch = heads * headDim;
  const isExact = host.rows > 1 && width <= WIDEST_EXACT;
  const step = isExact ? host.rows : 1;
  const block = isExact ? host.rows : BLOCK;
  const padded = (count: number) => Math.ceil(count / step) * step;
  const own = host.scratch(like, Math.max(1, padded(mostQueries) * width));
  const y = host.scratch(like, Math.max(1, padded(mostQueries) * outPitch));
  const scale = headDim ** -0.5;
  const { gemm } = host;
  const scores = host.scratch(like, Math.max(1, Math.min(block, padded(mostQueries)) * padded(mostKeys)));
  return {
    padded,
    /** Takes a sequence's rows of the fused projection, and gives them with zeros up to a full block. */
    load(rows: Floats): Floats {
      own.set(rows);
      own.fill(0, rows.length, padded(rows.length / width) * width);
      return own;
    },
    /** Attends with the loaded rows and reports each query's log Σ exp by head. */
    run(past: Past, out: Floats, onLse?: (query: number, head: number, value: number) => void): void {
      const { queries, first, keysAndValues, kvPitch } = past;
      const rows = padded(queries);
      for (let h = 0; h < heads; h++) {
        const kv = Math.floor((h * kvHeads) / heads);
        const keys = chunks(keysAndValues, past.k + kv * headDim, kvPitch, padded(first + queries));
        const values = chunks(keysAndValues, past.v + kv * headDim, kvPitch, padded(first + queries));
        for (let from = 0; from < rows; from += block) {
          const count = Math.min(block, rows - from);
          const seen = Math.min(first + from + count, first + queries);
          const length = padded(seen);
          const q = own.subarray(from * width + h * headDim);
          for (let c = 0, at = 0; at < length; c++, at += KEYS) {
            const into = at === 0 ? scores : scores.subarray(at);
            const some = Math.min(KEYS, length - at);
            gemm(false, true, count, some, headDim, scale, q, width, keys[c], kvPitch, 0, into, length);
          }
          // What fills the last block up is not looked at.
          const real = Math.min(count, queries - from);
          for (let i = 0; i < real; i++) {
            const value = softmaxRow(scores, i * length, first + from + i + 1, length);
            onLse?.(from + i, h, value);
          }
          const result = y.subarray(from * outPitch + h * headDim);
          for (let c = 0, at = 0; at < length; c++, at += KEYS) {
            const weights = at === 0 ? scores : scores.subarray(at);
            const some = Math.min(KEYS, length - at);
            gemm(false, false, count, headDim, some, 1, weights, length, values[c], kvPitch, at && 1, result, outPitch);
          }
        }
      }
      out.set(y.subarray(0, queries * outPitch));
    },
    release(): void {
      for (const scratch of [own, y, scores]) host.release(scratch);
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
      visit({ queries, headDim, q, qPitch: width, k, v, kvPitch: width }, row, h);
    }
  }
}

/** The head that starts at `column`, from every `KEYS`-th row on, in rows 0 … length−1. */
function chunks(rows: Floats, column: number, pitch: number, length: number): Floats[] {
  const starts: Floats[] = [];
  for (let at = 0; at < length; at += KEYS) starts.push(rows.subarray(at * pitch + column));
  return starts;
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
