import type { Tensor as EngineTensor, TensorContainer } from "@tensorflow/tfjs-core";
import type { DType, TypedArray } from "../../dtype.js";
import { sizeOf } from "../../shape.js";
import type { ArrayRef, Backend, BinaryOp, MatmulSpec, Storage, UnaryOp } from "../backend.js";
import type { Engine, Tf } from "./engines.js";
import { type EngineMemory, engineDtypes } from "./memory.js";

/** What a backend does with the buffers that memory holds. */
export type Operations = Omit<Backend, "name" | "description" | "dtypes" | "free" | "memory">;

/** Runs engine operations with the engine made current and intermediates disposed of. */
export type Run = <T extends TensorContainer>(fn: () => T) => T;

/** Everything by operations of tfjs. */
export function engineOperations({ tf, host }: Engine, memory: EngineMemory, run: Run): Operations {
  const unaryOps = unaryTable(tf);
  const binaryOps = binaryTable(tf);
  const make = (dtype: DType, size: number, fn: () => EngineTensor): Storage => memory.put(dtype, size, run(fn));
  const like = (x: ArrayRef, size: number, fn: () => EngineTensor): Storage => make(x.storage.dtype, size, fn);
  const column = (index: EngineTensor) => tf.reshape(index, [-1, 1]);
  /** [n, 2] of (row, index[row]). */
  const elementIndex = (index: EngineTensor) => tf.stack([tf.range(0, index.size, 1, "int32"), index], 1);

  /** The wasm engine takes ten times as long for a product with transpose flags as for transposing first. */
  const plainProduct = (a: ArrayRef, b: ArrayRef, { m, n, k, transposeA, transposeB }: MatmulSpec) =>
    tf.matMul(
      transposeA ? tf.transpose(memory.tensor(a, [k, m])) : memory.tensor(a, [m, k]),
      transposeB ? memory.transposed(b, n, k) : memory.tensor(b, [k, n]),
    );
  const batchedProduct = (a: ArrayRef, b: ArrayRef, { batch, m, n, k, transposeA, transposeB }: MatmulSpec) =>
    tf.matMul(
      memory.tensor(a, transposeA ? [batch, k, m] : [batch, m, k]),
      memory.tensor(b, transposeB ? [batch, n, k] : [batch, k, n]),
      transposeA,
      transposeB,
    );

  return {
    upload: (dtype, data) => make(dtype, data.length, () => memory.upload(data, dtype, [data.length])),
    download: (x) => download(run(() => tf.clone(memory.tensor(x)))),

    fill: (dtype, size, value) => make(dtype, size, () => tf.fill([size], value, engineDtypes[dtype] as "float32")),
    cast: (x, dtype) => make(dtype, sizeOf(x.shape), () => tf.cast(memory.tensor(x), engineDtypes[dtype]!)),
    unary: (op, x) => like(x, sizeOf(x.shape), () => unaryOps[op](memory.tensor(x))),
    binary(op, a, b, shape) {
      const y = run(() => binaryOps[op](memory.tensor(a), memory.tensor(b)));
      return memory.put(y.dtype === "bool" ? "bool" : a.storage.dtype, sizeOf(shape), y);
    },
    where: (condition, a, b, shape) =>
      like(a, sizeOf(shape), () => tf.where(memory.tensor(condition), memory.tensor(a), memory.tensor(b))),
    reduce(op, x, outer, length, inner) {
      const blocks = () => memory.tensor(x, [outer, length, inner]);
      if (op === "argmax") return make("i32", outer * inner, () => tf.argMax(blocks(), 1));
      return like(x, outer * inner, () => (op === "sum" ? tf.sum(blocks(), 1) : tf.max(blocks(), 1)));
    },
    matmul: (a, b, spec, bias, addend) =>
      like(a, spec.batch * spec.m * spec.n, () => {
        const product = host && spec.batch === 1 ? plainProduct : batchedProduct;
        const y = product(a, b, spec);
        const sum = bias ? tf.add(y, memory.tensor(bias)) : y;
        return addend ? tf.add(sum, memory.tensor(addend, sum.shape)) : sum;
      }),
    permute: (x, axes) => like(x, sizeOf(x.shape), () => tf.transpose(memory.tensor(x), [...axes])),
    slice: (x, starts, sizes) => like(x, sizeOf(sizes), () => tf.slice(memory.tensor(x), [...starts], [...sizes])),
    concat(parts, outer, lengths, inner) {
      const total = lengths.reduce((sum, length) => sum + length, 0);
      const blocks = () => parts.map((part, i) => memory.tensor(part, [outer, lengths[i], inner]));
      return like(parts[0], outer * total * inner, () => tf.concat(blocks(), 1));
    },
    gatherRows: (x, index) =>
      like(x, sizeOf(index.shape) * x.shape[1], () => {
        const at = memory.tensor(index);
        const rows = tf.gather(memory.tensor(x), tf.relu(at) as never);
        return tf.where(tf.greaterEqual(column(at), zero(tf, at)), rows, tf.zerosLike(rows));
      }),
    scatterRows: (x, index, rows) =>
      like(x, rows * x.shape[1], () => tf.unsortedSegmentSum(memory.tensor(x), memory.tensor(index) as never, rows)),
    pick: (x, index) =>
      like(x, sizeOf(index.shape), () => tf.gatherND(memory.tensor(x), elementIndex(memory.tensor(index)))),
    unpick(x, index, columns) {
      const rows = sizeOf(index.shape);
      const scatter = () => tf.scatterND(elementIndex(memory.tensor(index)), memory.tensor(x), [rows, columns]);
      return like(x, rows * columns, scatter);
    },

    assign: (target, source) => run(() => memory.write(target, memory.tensor(source))),
    accumulate: (target, source) =>
      run(() => memory.write(target, tf.add(memory.tensor(target), memory.tensor(source)))),
    setRows(target, index, source) {
      const [rows, columns] = target.shape;
      run(() => {
        // Index −1 writes to a row below the last, which is cut off again.
        const at = memory.tensor(index);
        const place = tf.where(tf.less(at, zero(tf, at)), tf.fill(at.shape, rows, "int32"), at);
        const before = memory.tensor(target);
        const extended = tf.concat([before, tf.zeros([1, columns], before.dtype)]);
        const after = tf.tensorScatterUpdate(extended, column(place), memory.tensor(source));
        memory.write(target, tf.slice(after, [0, 0], [rows, columns]));
      });
    },

    fused: {},
    close: () => {},
  };
}

async function download(copy: EngineTensor): Promise<TypedArray> {
  try {
    return (await copy.data()).slice() as TypedArray;
  } finally {
    copy.dispose();
  }
}

function zero(tf: Tf, like: EngineTensor): EngineTensor {
  return tf.scalar(0, like.dtype);
}

function unaryTable(tf: Tf): Record<UnaryOp, (x: EngineTensor) => EngineTensor> {
  return {
    neg: tf.neg,
    abs: tf.abs,
    sign: tf.sign,
    exp: tf.exp,
    log: tf.log,
    sqrt: tf.sqrt,
    rsqrt: tf.rsqrt,
    square: tf.square,
    reciprocal: tf.reciprocal,
    sigmoid: tf.sigmoid,
    silu: (x) => tf.mul(x, tf.sigmoid(x)),
    tanh: tf.tanh,
    relu: tf.relu,
    sin: tf.sin,
    cos: tf.cos,
    logicalNot: (x) => tf.cast(tf.equal(x, zero(tf, x)), x.dtype),
  };
}

function binaryTable(tf: Tf): Record<BinaryOp, (a: EngineTensor, b: EngineTensor) => EngineTensor> {
  const truncatedDiv = (a: EngineTensor, b: EngineTensor) =>
    tf.mul(tf.floorDiv(tf.abs(a), tf.abs(b)), tf.mul(tf.sign(a), tf.sign(b)));
  return {
    add: tf.add,
    sub: tf.sub,
    mul: tf.mul,
    div: (a, b) => (a.dtype === "int32" ? truncatedDiv(a, b) : tf.div(a, b)),
    maximum: tf.maximum,
    minimum: tf.minimum,
    pow: tf.pow,
    equal: tf.equal,
    notEqual: tf.notEqual,
    less: tf.less,
    lessEqual: tf.lessEqual,
    greater: tf.greater,
    greaterEqual: tf.greaterEqual,
  };
}
