import { dtypes } from "../../dtype.js";
import { type ArrayRef, type BinaryOp, type MatmulSpec, Storage } from "../backend.js";
import { createCpu } from "../cpu/index.js";
import type { Engine } from "./engines.js";
import { hybridGemm } from "./gemm.js";
import type { EngineMemory } from "./memory.js";
import type { Operations, Run } from "./operations.js";

/** The rest is no faster than a loop, or wrong: the engines' maximum overlooks NaN, as their sign does. */
const engineBinary: ReadonlySet<BinaryOp> = new Set(["add", "sub", "mul", "div"]);

/**
 * The operations of an engine in the host's memory. Matrix products, permutations and most elementwise functions of floats
 * are the engine's; everything else, the fused kernels included, is the cpu backend's, to and from which elements are
 * copied: its loops are as fast, and sums are exact there.
 */
export function hostOperations(engine: Engine, operations: Operations, memory: EngineMemory, run: Run): Operations {
  const productFrom = engine.host!.productFrom;
  const gemm = hybridGemm(engine.tf, run, productFrom);
  const host = createCpu({ blas: { gemm, description: "", tried: [] } });

  const adopt = (value: unknown): unknown => {
    if (value instanceof Storage) return memory.put(value.dtype, value.size, value);
    if (value === undefined || value instanceof Promise) return value;
    return Object.fromEntries(Object.entries(value as object).map(([name, storage]) => [name, adopt(storage)]));
  };
  /** A function of the host's backend for storages of this one; it writes to the arguments numbered by `written`. */
  const forward =
    <A extends unknown[], R>(fn: (...args: A) => R, ...written: readonly number[]) =>
    (...args: A): R => {
      const copies: Storage[] = [];
      const toHost = (value: unknown, write: boolean): unknown => {
        if (Array.isArray(value)) return value.map((item) => toHost(item, write));
        if (!isRef(value)) return value;
        if (write) return memory.moveToHost(value, host);
        const { ref, isCopy } = memory.onHost(value, host);
        if (isCopy) copies.push(ref.storage);
        return ref;
      };
      try {
        return adopt(fn(...(args.map((arg, i) => toHost(arg, written.includes(i))) as A))) as R;
      } finally {
        for (const copy of copies) host.free(copy);
      }
    };

  const onHost = { unary: forward(host.unary), binary: forward(host.binary), matmul: forward(host.matmul) };
  const isFloat = (x: ArrayRef) => dtypes[x.storage.dtype].floating;
  const isForEngine = ({ batch, m, n, k }: MatmulSpec) =>
    batch === 1 && m * n * k > 0 && productFrom < Number.POSITIVE_INFINITY;
  const kernels = Object.entries(host.fused).map(([name, kernel]) => [
    name,
    // All but the gradient: parameter, master and moments.
    forward(kernel as (...args: unknown[]) => unknown, ...(name === "adamw" ? [0, 1, 3, 4] : [])),
  ]);

  return {
    upload: forward(host.upload),
    download: forward(host.download),
    fill: forward(host.fill),
    cast: forward(host.cast),
    unary: (op, x) => (isFloat(x) && op !== "sign" ? operations : onHost).unary(op, x),
    binary: (op, a, b, shape) => (isFloat(a) && engineBinary.has(op) ? operations : onHost).binary(op, a, b, shape),
    where: forward(host.where),
    reduce: forward(host.reduce),
    matmul: (a, b, spec, bias, addend) => (isForEngine(spec) ? operations : onHost).matmul(a, b, spec, bias, addend),
    permute: operations.permute,
    slice: forward(host.slice),
    concat: forward(host.concat),
    gatherRows: forward(host.gatherRows),
    scatterRows: forward(host.scatterRows),
    pick: forward(host.pick),
    unpick: forward(host.unpick),
    assign: forward(host.assign, 0),
    accumulate: forward(host.accumulate, 0),
    setRows: forward(host.setRows, 0),
    fused: Object.fromEntries(kernels),
    close: () => host.close(),
  };
}

function isRef(value: unknown): value is ArrayRef {
  return typeof value === "object" && value !== null && (value as Partial<ArrayRef>).storage instanceof Storage;
}
