import { type DType, dtypes, encode } from "../../dtype.js";
import { broadcastStrides, type Shape, sizeOf } from "../../shape.js";
import type { ArrayRef, Backend, BinaryOp, Storage, UnaryOp } from "../backend.js";
import { mergeAxes } from "./axes.js";
import type { CudaContext } from "./context.js";
import { copyBytes, fillElements } from "./copies.js";
import { BLOCK, elementwiseSource, type Kind } from "./elementwiseSource.js";
import { loopGrid } from "./launch.js";

const unaryExpressions: Record<UnaryOp, string> = {
  neg: "-a",
  abs: "math::abs(a)",
  sign: "math::sign(a)",
  exp: "math::exp(a)",
  log: "math::log(a)",
  sqrt: "math::sqrt(a)",
  rsqrt: "1 / math::sqrt(a)",
  square: "a * a",
  reciprocal: "1 / a",
  sigmoid: "1 / (1 + math::exp(-a))",
  silu: "a / (1 + math::exp(-a))",
  tanh: "math::tanh(a)",
  relu: "a <= 0 ? 0 : a",
  sin: "math::sin(a)",
  cos: "math::cos(a)",
  logicalNot: "a == 0",
};

const arithmeticExpressions: Partial<Record<BinaryOp, string>> = {
  add: "a + b",
  sub: "a - b",
  mul: "a * b",
  div: "a / b",
  maximum: "a >= b || a != a ? a : b",
  minimum: "a <= b || a != a ? a : b",
  pow: "math::pow(a, b)",
};

const comparisonExpressions: Partial<Record<BinaryOp, string>> = {
  equal: "a == b",
  notEqual: "a != b",
  less: "a < b",
  lessEqual: "a <= b",
  greater: "a > b",
  greaterEqual: "a >= b",
};

type Elementwise = Pick<Backend, "fill" | "cast" | "unary" | "binary" | "where" | "accumulate">;

export function elementwiseOperations(context: CudaContext): Elementwise {
  const { device, empty } = context;
  return {
    fill: (dtype, size, value) => filled(context, dtype, size, value, "fill"),
    cast(x, dtype) {
      if (x.storage.dtype !== dtype) return elementwise(context, "a", [x], x.shape, dtype, `to_${dtype}`);
      const y = empty(dtype, sizeOf(x.shape), "cast");
      const bytes = y.size * dtypes[dtype].bytes;
      if (bytes > 0) copyBytes(device, device.address(whole(y)), device.address(x), bytes);
      return y;
    },
    unary: (op, x) => elementwise(context, unaryExpressions[op], [x], x.shape, x.storage.dtype, op),
    binary(op, a, b, shape) {
      const comparison = comparisonExpressions[op];
      if (comparison) return elementwise(context, comparison, [a, b], shape, "bool", op);
      return elementwise(context, arithmeticExpressions[op]!, [a, b], shape, a.storage.dtype, op);
    },
    where: (condition, a, b, shape) =>
      elementwise(context, "a ? b : c", [condition, a, b], shape, a.storage.dtype, "where"),
    accumulate: (target, source) => run(context, "a + b", [target, source], target, "accumulate"),
  };
}

/**
 * A new storage of `shape` with the value of a C expression in `a`, `b`, `c`, …, the elements of `inputs` broadcast to
 * `shape`. Floats and bool stand there as float, integers as double; it is rounded once, to `dtype`. Functions are those of
 * `math::` in kernels/elementwise.cu; constants need the suffix f, lest floats become doubles. `name` is for people.
 */
export function elementwise(
  context: CudaContext,
  expression: string,
  inputs: readonly ArrayRef[],
  shape: Shape,
  dtype: DType,
  name = "elementwise",
): Storage {
  const storage = context.empty(dtype, sizeOf(shape), name);
  run(context, expression, inputs, { storage, offset: 0, shape }, name);
  return storage;
}

/** A new storage of `size` elements that all are `value`. */
export function filled({ device, empty }: CudaContext, dtype: DType, size: number, value: number, label: string) {
  const storage = empty(dtype, size, label);
  if (size === 0) return storage;
  const encoded = new Uint8Array(encode([value], dtype).buffer);
  const bits = encoded.reduceRight((rest, byte) => rest * 256 + byte, 0);
  fillElements(device, device.address(whole(storage)), bits, { bytes: encoded.length, count: size });
  return storage;
}

function whole(storage: Storage): ArrayRef {
  return { storage, offset: 0, shape: [storage.size] };
}

/** How a kernel walks: rows of `width` elements along the last merged axis, over `outer` axes. */
interface Walk {
  readonly outer: readonly number[];
  readonly width: number;
  readonly operands: readonly { readonly kind: Kind; readonly strides: readonly number[] }[];
}

/** out = the expression; `out` may be an input too. */
function run(context: CudaContext, expression: string, inputs: readonly ArrayRef[], out: ArrayRef, name: string): void {
  const { device } = context;
  const size = sizeOf(out.shape);
  if (size === 0) return;
  const walk = walkOf(inputs, out.shape);
  const { outer, width, operands } = walk;
  const flat = outer.length === 0;
  const bytesOf = (array: ArrayRef) => dtypes[array.storage.dtype].bytes;
  const packed = [out, ...inputs.filter((_, i) => operands[i].kind === "full" || operands[i].kind === "row")];
  let pack = 16 / Math.max(...packed.map(bytesOf));
  while (pack > 1 && !packed.every((array) => device.address(array) % (pack * bytesOf(array)) === 0)) pack /= 2;
  while (pack > 1 && (flat ? pack > size : width % pack !== 0)) pack /= 2;

  const types = [out, ...inputs].map((array) => array.storage.dtype);
  const index = size < 2 ** 31 ? "u32" : "u64";
  const kinds = operands.map(({ kind }) => kind);
  const key = `elementwise ${[name, expression, types, outer.length, kinds, pack, index].join(" ")}`;
  const letter = index === "u32" ? "i" : "l";
  const strided = operands.filter(({ kind }) => kind === "row" || kind === "column");
  const numbers = [...(flat ? [size] : [size / pack, width / pack]), ...outer.slice(1)];
  const all = [...numbers, ...strided.flatMap(({ strides }) => strides)];
  const signature = "p".repeat(types.length) + letter.repeat(all.length);
  const kernel = device.kernels.generated(key, `map_${name}`, signature, () =>
    elementwiseSource(`map_${name}`, expression, types, kinds, outer.length, pack, index),
  );
  device.launch(kernel, [...[out, ...inputs].map((array) => device.address(array)), ...all], {
    grid: loopGrid(device, Math.ceil(size / pack), BLOCK),
    block: BLOCK,
    bytes: [out, ...inputs].reduce((sum, array) => sum + sizeOf(array.shape) * bytesOf(array), 0),
  });
}

function walkOf(inputs: readonly ArrayRef[], shape: Shape): Walk {
  const merged = mergeAxes(
    shape,
    inputs.map((input) => broadcastStrides(input.shape, shape)),
  );
  const outer = merged.shape.slice(0, -1);
  if (outer.length > 5) throw new Error(`elementwise: broadcasting over ${merged.shape.length} axes; 6 are possible`);
  const width = merged.shape.at(-1) ?? 1;
  const full = merged.shape.map((_, i) => sizeOf(merged.shape.slice(i + 1)));
  const operands = merged.strides.map((strides) => {
    let kind: Kind = strides.at(-1) === 1 ? "row" : "column";
    if (strides.every((stride) => stride === 0)) kind = "scalar";
    else if (strides.every((stride, i) => stride === full[i])) kind = "full";
    return { kind, strides: strides.slice(0, -1) };
  });
  return { outer, width, operands };
}
