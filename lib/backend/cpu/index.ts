import { type DType, decode, dtypes, encode, hostArray, type TypedArray } from "../../dtype.js";
import { sizeOf } from "../../shape.js";
import { type ArrayRef, type Backend, type BinaryOp, Storage } from "../backend.js";
import { type Blas, findBlas } from "./blas.js";
import { addRow, addTo, binaryLoop, reduceLoop, unaryLoop, whereLoop } from "./elementwise.js";
import type { HostMemory } from "./fused/host.js";
import { hostKernels } from "./fused/index.js";
import type { Floats } from "./gemm.js";
import * as movement from "./movement.js";
import { BufferPool } from "./pool.js";
import { rowProduct, wholeProduct } from "./rowProduct.js";

export interface CpuOptions {
  /** The matrix product to use; default: what `findBlas` finds. */
  readonly blas?: Blas;
  /** Fill freed buffers with NaN, so that a use after free shows. */
  readonly poison?: boolean;
  /** Leave the fused kernels out, so that everything is composed of primitives. */
  readonly composed?: boolean;
}

const comparisons: ReadonlySet<BinaryOp> = new Set([
  "equal",
  "notEqual",
  "less",
  "lessEqual",
  "greater",
  "greaterEqual",
] satisfies BinaryOp[]);

/** The backend on the host's processor: typed arrays, loops in TypeScript, matrix products by BLAS where one is found. */
export function createCpu(options: CpuOptions = {}): Backend {
  const blas = options.blas ?? findBlas();
  const multiplyRows = blas.rows === undefined ? wholeProduct(blas.gemm) : rowProduct(blas.gemm);
  const pool = new BufferPool(options.poison);

  const allocate = (dtype: DType, size: number): Storage =>
    new Storage(backend, dtype, size, pool.allocate(dtype, size));
  /** The elements as stored: 16-bit floats as bit patterns. */
  const raw = (x: ArrayRef): TypedArray => {
    const whole = x.storage.handle as TypedArray;
    const size = sizeOf(x.shape);
    return x.offset === 0 && size === whole.length ? whole : whole.subarray(x.offset, x.offset + size);
  };
  /** The elements as numbers. */
  const numbers = (x: ArrayRef): TypedArray => decode(raw(x), x.storage.dtype);
  const isNarrow = (dtype: DType) => dtype === "bf16" || dtype === "f16";
  const output = (dtype: DType, size: number) => {
    if (!isNarrow(dtype)) {
      const storage = allocate(dtype, size);
      return { data: storage.handle as TypedArray, done: () => storage };
    }
    const data = pool.allocate("f32", size) as Float32Array;
    return { data, done: () => finishNarrow(data, dtype) };
  };
  const finishNarrow = (data: Float32Array, dtype: DType): Storage => {
    const storage = allocate(dtype, data.length);
    (storage.handle as TypedArray).set(encode(data, dtype));
    pool.free(data);
    return storage;
  };
  /** Fresh storage filled by `fill`, which sees numbers. */
  const compute = (dtype: DType, size: number, fill: (out: TypedArray) => void): Storage => {
    const out = output(dtype, size);
    fill(out.data);
    return out.done();
  };
  /** Fresh storage filled by `fill`, which sees elements as stored. */
  const move = (x: ArrayRef, size: number, fill: (from: TypedArray, to: TypedArray) => void): Storage => {
    const storage = allocate(x.storage.dtype, size);
    fill(raw(x), storage.handle as TypedArray);
    return storage;
  };

  const host: HostMemory = {
    gemm: blas.gemm,
    rows: blas.rows ?? 1,
    rowProduct: multiplyRows,
    read: (x) => numbers(x) as Floats,
    readInts: (x) => raw(x) as Int32Array,
    output: (dtype, size) => output(dtype, size) as ReturnType<HostMemory["output"]>,
    scratch: (like, size) => pool.allocate(like instanceof Float64Array ? "f64" : "f32", size) as Floats,
    release: (scratch) => pool.free(scratch),
    update: (x, fn) => fn(raw(x) as Floats),
  };

  const backend: Backend = {
    name: "cpu",
    description: `TypeScript kernels, ${blas.description}`,
    dtypes: new Set(Object.keys(dtypes) as DType[]),

    upload(dtype, data) {
      const storage = allocate(dtype, data.length);
      (storage.handle as TypedArray).set(data);
      return storage;
    },
    async download(x) {
      const copy = hostArray(x.storage.dtype, sizeOf(x.shape));
      copy.set(raw(x));
      return copy;
    },
    free: (storage) => pool.free(storage.handle as TypedArray),
    memory: () => pool.memory(),

    fill: (dtype, size, value) => compute(dtype, size, (out) => out.fill(value)),
    cast: (x, dtype) =>
      compute(dtype, sizeOf(x.shape), (out) => {
        const from = numbers(x);
        if (dtype === "bool") for (let i = 0; i < from.length; i++) out[i] = from[i] === 0 ? 0 : 1;
        else out.set(from);
      }),
    unary: (op, x) => compute(x.storage.dtype, sizeOf(x.shape), (out) => unaryLoop(op, numbers(x), out)),
    binary: (op, a, b, shape) =>
      compute(comparisons.has(op) ? "bool" : a.storage.dtype, sizeOf(shape), (out) =>
        binaryLoop(op, numbers(a), a.shape, numbers(b), b.shape, out, shape),
      ),
    where: (condition, a, b, shape) =>
      compute(a.storage.dtype, sizeOf(shape), (out) =>
        whereLoop(raw(condition), numbers(a), numbers(b), [condition.shape, a.shape, b.shape], out, shape),
      ),
    reduce: (op, x, outer, length, inner) =>
      compute(op === "argmax" ? "i32" : x.storage.dtype, outer * inner, (out) =>
        reduceLoop(op, numbers(x), out, outer, length, inner),
      ),
    matmul: (a, b, { batch, m, n, k, transposeA, transposeB }, bias, addend) =>
      compute(a.storage.dtype, batch * m * n, (out) => {
        const [as, bs, ys] = [numbers(a) as Floats, numbers(b) as Floats, out as Floats];
        const [lda, ldb] = [transposeA ? m : k, transposeB ? k : n];
        for (let i = 0; i < batch; i++) {
          const [ai, bi, yi] = [as.subarray(i * m * k), bs.subarray(i * k * n), ys.subarray(i * m * n)];
          if (k === 0) yi.fill(0, 0, m * n);
          else if (transposeB && !transposeA) multiplyRows(m, n, k, ai, bi, yi);
          else blas.gemm(transposeA, transposeB, m, n, k, 1, ai, lda, bi, ldb, 0, yi, n);
        }
        // After the product: how a BLAS adds to what is there depends on the number of rows.
        if (bias) addRow(ys, numbers(bias));
        if (addend) addTo(ys, numbers(addend));
      }),
    permute: (x, axes) => move(x, sizeOf(x.shape), (from, to) => movement.permuteCopy(from, x.shape, axes, to)),
    slice: (x, starts, sizes) =>
      move(x, sizeOf(sizes), (from, to) => movement.sliceCopy(from, x.shape, starts, sizes, to)),
    concat(parts, outer, lengths, inner) {
      const total = lengths.reduce((sum, length) => sum + length, 0);
      return move(parts[0], outer * total * inner, (_, to) =>
        movement.concatCopy(parts.map(raw), outer, lengths, inner, to),
      );
    },
    gatherRows: (x, index) =>
      move(x, sizeOf(index.shape) * x.shape[1], (from, to) =>
        movement.gatherRowsCopy(from, x.shape[1], raw(index), to),
      ),
    scatterRows: (x, index, rows) =>
      compute(x.storage.dtype, rows * x.shape[1], (out) =>
        movement.scatterRowsSum(numbers(x), x.shape[1], raw(index), out),
      ),
    pick: (x, index) => move(x, sizeOf(index.shape), (from, to) => movement.pickCopy(from, x.shape[1], raw(index), to)),
    unpick: (x, index, columns) =>
      move(x, sizeOf(index.shape) * columns, (from, to) => movement.unpickCopy(from, columns, raw(index), to)),

    assign: (target, source) => raw(target).set(raw(source)),
    accumulate: (target, source) => addTo(raw(target), numbers(source)),
    setRows: (target, index, source) => movement.setRowsCopy(raw(target), target.shape[1], raw(index), raw(source)),

    fused: options.composed ? {} : hostKernels(host),
    close: () => pool.trim(),
  };
  return backend;
}
