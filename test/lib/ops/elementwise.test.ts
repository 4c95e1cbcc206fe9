import test from "ava";
import { fromBf16, fromF16, toBf16, toF16 } from "../../../lib/dtype.js";
import { type DType, tensor, where } from "../../../lib/index.js";
import { at, build, inside, type Naive, read } from "../naive.js";
import { kernels, normals, relativeGap } from "../support.js";

const unary: Record<string, (x: number) => number> = {
  neg: (x) => -x,
  abs: Math.abs,
  sign: Math.sign,
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  rsqrt: (x) => x ** -0.5,
  square: (x) => x ** 2,
  reciprocal: (x) => x ** -1,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  tanh: Math.tanh,
  relu: (x) => Math.max(x, 0),
  sin: Math.sin,
  cos: Math.cos,
  logicalNot: (x) => (x === 0 ? 1 : 0),
};
const arithmetic = {
  add: (a: number, b: number) => a + b,
  sub: (a: number, b: number) => a - b,
  mul: (a: number, b: number) => a * b,
  div: (a: number, b: number) => a / b,
  maximum: Math.max,
  minimum: Math.min,
  pow: (a: number, b: number) => a ** b,
};
const comparisons = {
  equal: (a: number, b: number) => a === b,
  notEqual: (a: number, b: number) => a !== b,
  less: (a: number, b: number) => a < b,
  lessEqual: (a: number, b: number) => a <= b,
  greater: (a: number, b: number) => a > b,
  greaterEqual: (a: number, b: number) => a >= b,
};
/** Rounds a number as storing it in this dtype does. */
const rounding: Partial<Record<DType, (x: number) => number>> = {
  f64: (x) => x,
  f32: Math.fround,
  bf16: (x) => fromBf16(toBf16(x)),
  f16: (x) => fromF16(toF16(x)),
};

type UnaryName = "neg" | "exp";
const absolute = ["log", "sqrt", "rsqrt"];

for (const [dtype, round] of Object.entries(rounding) as [DType, (x: number) => number][]) {
  test(`unary operations, ${dtype}: each element is the rounded value of the function`, async (t) => {
    for (const [op, f] of Object.entries(unary)) {
      const inputs = normals(1, 60).map((x) => round(absolute.includes(op) ? Math.abs(x) : x));
      const y = inside({ shape: [3, 20], values: inputs }, dtype)[op as UnaryName]();
      t.is(y.dtype, dtype, op);
      t.deepEqual(y.shape, [3, 20], op);
      const gap = relativeGap(
        await y.data(),
        inputs.map((x) => round(f(x))),
      );
      t.true(gap <= (dtype === "f64" || dtype === "f32" ? 1e-15 : 0), `${op}: ${gap}`);
    }
  });

  test(`arithmetic, ${dtype}: each element is the rounded value of the operation`, async (t) => {
    for (const [op, f] of Object.entries(arithmetic)) {
      const [a, b] = [2, 3].map((seed) => normals(seed, 24).map((x) => round(Math.abs(x) + 0.1)));
      const y = inside({ shape: [24], values: a }, dtype)[op as "add"](inside({ shape: [24], values: b }, dtype));
      t.is(y.dtype, dtype, op);
      t.deepEqual(await read(y), { shape: [24], values: Array.from(a, (x, i) => round(f(x, b[i]))) }, op);
    }
  });
}

const broadcasts: [a: number[], b: number[], result: number[]][] = [
  [[], [], []],
  [[], [2, 3], [2, 3]],
  [[4], [], [4]],
  [[2, 3], [3], [2, 3]],
  [[3], [2, 1], [2, 3]],
  [
    [2, 1, 4],
    [3, 1],
    [2, 3, 4],
  ],
  [
    [2, 3, 4],
    [2, 3, 1],
    [2, 3, 4],
  ],
  [
    [2, 3, 4],
    [2, 1, 4],
    [2, 3, 4],
  ],
  [
    [1, 1],
    [5, 1],
    [5, 1],
  ],
  [
    [5, 1, 3, 1],
    [1, 2, 1, 4],
    [5, 2, 3, 4],
  ],
  [
    [0, 3],
    [1, 3],
    [0, 3],
  ],
  [[2, 0], [1], [2, 0]],
  [[0], [], [0]],
];
for (const [a, b, shape] of broadcasts) {
  test(`[${a}] and [${b}] broadcast to [${shape}]`, async (t) => {
    const [x, y] = [fill(a, 4), fill(b, 5)];
    for (const [op, f] of Object.entries({ ...arithmetic, ...comparisons })) {
      for (const dtype of ["f32", "i32"] as const) {
        if (dtype === "i32" && (op === "div" || op === "pow")) continue;
        const result = inside(x, dtype)[op as "add"](inside(y, dtype));
        const expected = build(shape, (index) => Math.fround(Number(f(at(x, index), at(y, index)))));
        t.deepEqual(await read(result), expected, `${op} ${dtype}`);
        t.is(result.dtype, op in comparisons ? "bool" : dtype);
      }
    }
    const condition = build(b, (index) => at(y, index) % 2);
    const chosen = where(inside(condition, "bool"), inside(x), inside({ shape: [], values: [9] }));
    const expected = build(shape, (index) => (at(condition, index) ? at(x, index) : 9));
    t.deepEqual(await read(chosen), expected);
  });
}

/** Small whole numbers above zero, with ties between seeds. */
function fill(shape: number[], seed: number): Naive {
  const random = normals(seed, 100);
  let next = 0;
  return build(shape, () => 1 + Math.floor(2 * Math.abs(random[next++])));
}

test("a number stands for a constant of the tensor's dtype", async (t) => {
  for (const dtype of ["f32", "f64", "bf16", "f16", "i32"] as const) {
    const y = inside({ shape: [3], values: [1, 2, 3] }, dtype)
      .mul(3)
      .sub(1);
    t.is(y.dtype, dtype);
    t.deepEqual((await read(y)).values, [2, 5, 8]);
  }
});

test("NaN passes through arithmetic, maximum, minimum and relu; comparisons with it are false", async (t) => {
  const [nan, one] = [Number.NaN, 1].map((value) => tensor([value], { backend: kernels }));
  for (const op of ["add", "mul", "maximum", "minimum"] as const) {
    t.deepEqual((await read(nan[op](one))).values, [Number.NaN], op);
    t.deepEqual((await read(one[op](nan))).values, [Number.NaN], op);
  }
  t.deepEqual((await read(nan.relu())).values, [Number.NaN]);
  t.deepEqual((await read(nan.equal(nan))).values, [0]);
  t.deepEqual((await read(nan.greaterEqual(one))).values, [0]);
});

test("sigmoid, silu and tanh reach their limits without overflow", async (t) => {
  const x = tensor([-1000, 1000], { backend: kernels });
  t.deepEqual((await read(x.sigmoid())).values, [0, 1]);
  t.deepEqual((await read(x.silu().abs())).values, [0, 1000]);
  t.deepEqual((await read(x.tanh())).values, [-1, 1]);
});

const casts: [from: DType, values: number[], to: DType, result: number[]][] = [
  ["f32", [1.9, -1.9, 0], "i32", [1, -1, 0]],
  ["f32", [0.5, 0, -3], "bool", [1, 0, 1]],
  ["f32", [1.00390625, 1.01171875], "bf16", [1, 1.015625]],
  ["f64", [0.1], "f32", [Math.fround(0.1)]],
  ["bf16", [1.5, -2], "f16", [1.5, -2]],
  ["bf16", [3.1], "i32", [3]],
  ["bool", [1, 0], "f32", [1, 0]],
  ["i32", [-5, 7], "bf16", [-5, 7]],
  ["u8", [255], "i32", [255]],
  ["f32", [], "bf16", []],
];
for (const [from, values, to, result] of casts) {
  test(`cast of [${values}] from ${from} to ${to}`, async (t) => {
    const y = inside({ shape: [values.length], values }, from).to(to);
    t.is(y.dtype, to);
    t.deepEqual((await read(y)).values, result);
  });
}

test("a cast to the same dtype is the tensor itself", (t) => {
  const x = tensor([1], { backend: kernels });
  t.is(x.to("f32"), x);
});
