import {
  Arena,
  type Backend,
  broadcastTo,
  concat,
  type DType,
  full,
  type Shape,
  setRows,
  type Tensor,
  tensor,
  where,
  zeros,
} from "../../../../lib/index.js";
import { sizeOf } from "../../../../lib/shape.js";
import { fresh } from "../../../../lib/tensor.js";
import { normals } from "../../support.js";
import { cpu, cudaTest, openCuda, poison } from "./support.js";

/** Makes an input of a case: of values drawn from a fixed seed (small whole numbers for integers), or given. */
type Source = (shape: Shape, given?: ArrayLike<number>, dtype?: DType) => Tensor;

/** A computation and the element types of its inputs that it is tried with. */
interface Case {
  readonly dtypes: readonly DType[];
  run(make: Source): Tensor | readonly Tensor[];
  /** Allowed difference in units of the last place of the result, or of the largest result; default exact. */
  readonly ulps?: number;
  readonly relativeToLargest?: boolean;
}

const floats = ["f32", "bf16", "f16"] as const;
const integers = ["i32", "u8"] as const;
const all = [...floats, ...integers, "bool"] as const;

const special = [
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  0,
  -0,
  1,
  -1,
  0.5,
  -2.5,
  60,
  -60,
  1e-7,
];
/** Around the widths at which a thread moves several elements, and enough for many blocks. */
const sizes = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 255, 256, 257, 1023, 1025, 20_011];
const large = 300_007;
const broadcasts: readonly (readonly [Shape, Shape])[] = [
  [[], []],
  [[1], []],
  [[4], []],
  [[], [7]],
  [[2, 3], [3]],
  [
    [2, 3],
    [2, 1],
  ],
  [
    [2, 1, 3],
    [4, 1],
  ],
  [
    [3, 1, 2, 1, 2],
    [1, 2, 1, 3, 1],
  ],
  [
    [0, 3],
    [1, 3],
  ],
  [[64, 128], [128]],
  [
    [64, 128],
    [64, 1],
  ],
  [
    [33, 1],
    [1, 65],
  ],
  [[129, 1025], [1025]],
  [
    [1025, 1],
    [1025, 129],
  ],
];

/** Units in the last place, relative to a value; a power of two. */
const ulp: Partial<Record<DType, number>> = { f32: 2 ** -23, bf16: 2 ** -7, f16: 2 ** -10 };

let noise: Float64Array | undefined;

/** Inputs on a backend. `inside`: each lies in a larger storage, an odd number of elements from its start. */
function sourceOn(backend: Backend, dtype: DType, inside: boolean): Source {
  noise ??= normals(5, 1_200_007);
  const wave = noise;
  let seed = 0;
  return (shape, given, as = dtype) => {
    const size = sizeOf(shape);
    const start = 1009 * seed++;
    const draw = (i: number) => {
      const value = wave[(start + i) % wave.length];
      if (as === "bool") return value > 0 ? 1 : 0;
      if (as === "u8") return Math.min(200, Math.floor(Math.abs(value) * 4));
      return as === "i32" ? Math.round(value * 4) : value;
    };
    const data = Float64Array.from({ length: size }, (_, i) =>
      given ? given[i % Math.max(1, given.length)] : draw(i),
    );
    if (!inside) return tensor(data, { backend, dtype: as, shape });
    const padded = new Float64Array(size + 5).fill(as === "bool" ? 1 : 77);
    padded.set(data, 3);
    return tensor(padded, { backend, dtype: as })
      .slice(0, 3, size + 3)
      .reshape(shape);
  };
}

interface Result {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly values: ArrayLike<number>;
}

async function results(work: Case, source: Source): Promise<Result[]> {
  using arena = new Arena();
  const tensors = arena.run(() => [work.run(source)].flat() as Tensor[]);
  return Promise.all(tensors.map(async (x) => ({ dtype: x.dtype, shape: x.shape, values: await x.data() })));
}

/** The first element that differs by more than is allowed, in words. */
function difference(
  actual: Result,
  expected: Result,
  { ulps = 0, relativeToLargest = false }: Case,
): string | undefined {
  const head = `${actual.dtype} [${actual.shape}] for ${expected.dtype} [${expected.shape}]`;
  if (actual.dtype !== expected.dtype || String(actual.shape) !== String(expected.shape)) return head;
  if (actual.values.length !== expected.values.length) return `${head}: ${actual.values.length} values`;
  const unit = ulps * (ulp[expected.dtype] ?? 0);
  const finite = Array.from(expected.values).filter(Number.isFinite);
  const most = relativeToLargest ? finite.reduce((a, b) => Math.max(a, Math.abs(b)), 0) : 0;
  for (let i = 0; i < expected.values.length; i++) {
    const [a, b] = [actual.values[i], expected.values[i]];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    if (!(Math.abs(a - b) <= unit * Math.max(most, Math.abs(b)))) return `${head}: element ${i} is ${a}, not ${b}`;
  }
  return undefined;
}

/** Every case gives what the cpu backend gives, for every element type and from whole storages and views into them. */
function agrees(title: string, cases: Record<string, Case>): void {
  cudaTest(`${title}: as on cpu, for whole storages and views at odd offsets, nothing left behind`, async (t) => {
    const cuda = await openCuda();
    for (const [label, work] of Object.entries(cases)) {
      for (const dtype of work.dtypes) {
        const expected = await results(work, sourceOn(cpu, dtype, false));
        for (const inside of [false, true]) {
          poison(cuda);
          const before = cuda.memory().bytes;
          const actual = await results(work, sourceOn(cuda, dtype, inside));
          const where = `${label}, ${dtype}${inside ? ", inside a larger storage" : ""}`;
          t.is(actual.length, expected.length, where);
          actual.forEach((result, i) => {
            t.is(difference(result, expected[i], work), undefined, `${where}, result ${i}`);
          });
          // What a kernel keeps for its next call was made by the first.
          if (inside) t.is(cuda.memory().bytes, before, `${where}: bytes left behind`);
        }
      }
    }
  });
}

const exactUnary = ["neg", "abs", "sign", "square", "relu", "sqrt", "reciprocal"] as const;
const roundedUnary = ["exp", "log", "rsqrt", "sigmoid", "silu", "tanh", "sin", "cos"] as const;

agrees("unary operations", {
  ...Object.fromEntries(
    [...exactUnary, ...roundedUnary].flatMap((op): [string, Case][] => {
      const ulps = exactUnary.includes(op as "neg") ? 0 : 4;
      // Near its zeros a sine is held to the scale of its argument, not to its own.
      const relativeToLargest = op === "sin" || op === "cos" || op === "log";
      return [
        [op, { dtypes: floats, ulps, relativeToLargest, run: (make) => sizes.map((size) => make([size])[op]()) }],
        [`${op} of many`, { dtypes: ["f32", "bf16"], ulps, relativeToLargest, run: (make) => make([large])[op]() }],
        [`${op} of special values`, { dtypes: floats, ulps, run: (make) => make([12], special)[op]() }],
      ];
    }),
  ),
  "of integers": {
    dtypes: ["i32"],
    run: (make) => (["neg", "abs", "sign", "square", "relu"] as const).map((op) => make([257])[op]()),
  },
  "of bytes": { dtypes: ["u8"], run: (make) => (["abs", "sign", "relu"] as const).map((op) => make([257])[op]()) },
  logicalNot: { dtypes: all, run: (make) => [make([7], [0, 2, 1]).logicalNot(), make([1001]).logicalNot()] },
  "of nothing and of scalars": { dtypes: floats, run: (make) => [make([0, 3]).neg(), make([]).square()] },
});

const exactBinary = ["add", "sub", "mul", "div", "maximum", "minimum"] as const;
const comparisons = ["equal", "notEqual", "less", "lessEqual", "greater", "greaterEqual"] as const;

agrees("binary operations", {
  ...Object.fromEntries(
    [...exactBinary, ...comparisons].flatMap((op): [string, Case][] => [
      [op, { dtypes: floats, run: (make) => broadcasts.map(([a, b]) => make(a)[op](make(b))) }],
      [`${op} by size`, { dtypes: floats, run: (make) => sizes.map((size) => make([size])[op](make([size]))) }],
      [`${op} of special values`, { dtypes: floats, run: (make) => make([12, 1], special)[op](make([12], special)) }],
    ]),
  ),
  ...Object.fromEntries(
    [...exactBinary.filter((op) => op !== "div"), ...comparisons].map((op): [string, Case] => [
      `${op} of integers`,
      { dtypes: ["i32"], run: (make) => broadcasts.slice(0, 12).map(([a, b]) => make(a)[op](make(b))) },
    ]),
  ),
  ...Object.fromEntries(
    ["add", "maximum", "minimum", ...comparisons].map((op): [string, Case] => [
      `${op} of bytes`,
      { dtypes: ["u8"], run: (make) => make([9, 31])[op as "add"](make([31], [0, 1, 5, 50])) },
    ]),
  ),
  ...Object.fromEntries(
    ["maximum", "minimum", ...comparisons].map((op): [string, Case] => [
      `${op} of truth values`,
      { dtypes: ["bool"], run: (make) => make([5, 33])[op as "equal"](make([33])) },
    ]),
  ),
  "division of integers truncates": {
    dtypes: ["i32"],
    run: (make) => make([7], [7, -7, 0, 5, 2, -3, 2 ** 30 + 1]).div(make([7], [2, 2, 3, -3, 2, -3, 3])),
  },
  "division of integers by zero gives zero": {
    dtypes: ["i32"],
    run: (make) => make([3], [7, -7, 0]).div(make([3], [0, 0, 0])),
  },
  "integers that f32 does not hold": {
    dtypes: ["i32"],
    run(make) {
      const [a, b] = [make([4], [16_777_217, -16_777_217, 2 ** 30 + 1, 5]), make([4], [16_777_216, 1, 2 ** 30, 5])];
      return [a.add(b), a.sub(b), a.maximum(b), a.equal(b), a.less(b), a.sum(), a.max(0)];
    },
  },
  pow: {
    dtypes: floats,
    ulps: 4,
    run: (make) => [
      make([257])
        .abs()
        .pow(make([257])),
      make([7, 1], [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 0.5, -2.5, 3, 2]).pow(
        make([5], [2, -1, 0, 0.5, 3]),
      ),
    ],
  },
  "pow of integers": {
    dtypes: ["i32"],
    run: (make) => make([7], [2, 3, -2, 7, 0, 5, 3]).pow(make([7], [3, 2, 3, 2, 0, 1, 9])),
  },
  "a number stands for a constant": { dtypes: floats, run: (make) => [make([33]).mul(0.5), make([0]).add(1)] },
});

agrees("selection, conversion and filling", {
  where: {
    dtypes: all,
    run: (make) => [
      where(make([2, 3], undefined, "bool"), make([2, 3]), make([3])),
      where(make([2, 1], [1, 0], "bool"), make([3]), make([])),
      where(make([1], [0], "bool"), make([0, 3]), make([0, 3])),
      where(make([257, 1], undefined, "bool"), make([257, 129]), make([129])),
      where(make([large], undefined, "bool"), make([large]), make([])),
    ],
  },
  "where lets NaN past": {
    dtypes: floats,
    run: (make) => where(make([12], [1, 0], "bool"), make([12], special), make([12], special)),
  },
  ...Object.fromEntries(
    all.map((to): [string, Case] => [
      `cast to ${to}`,
      { dtypes: all, run: (make) => [make([1001]).abs().to(to), make([3]).abs().to(to), make([0, 2]).to(to)] },
    ]),
  ),
  "cast of special values": { dtypes: floats, run: (make) => floats.map((to) => make([12], special).to(to)) },
  "cast rounds to nearest even, through subnormals and overflow": {
    dtypes: ["f32"],
    run(make) {
      const edges = [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 65519, 65520, 2 ** -24, 2 ** -25];
      const more = [1.5 * 2 ** -25, 2 ** -14 - 2 ** -26, 1e-40, 3.4e38, -3.4e38];
      const x = make([13], [...edges, ...more]);
      return [x.to("bf16"), x.to("f16"), x.to("bf16").to("f16"), x.to("f16").to("bf16")];
    },
  },
  "cast truncates": {
    dtypes: ["f32"],
    run: (make) => make([7], [1.7, -1.7, -0.2, 2.5, 1e6, -3, 16_777_216]).to("i32"),
  },
  "cast of large integers": { dtypes: ["i32"], run: (make) => make([2], [2 ** 31 - 1, -(2 ** 30) - 1]).to("f32") },
  "NaN is true": { dtypes: floats, run: (make) => make([12], special).to("bool") },
  "fill and repeat": {
    dtypes: all,
    run(make) {
      const like = make([1]);
      const options = { backend: like.backend, dtype: like.dtype };
      return [
        ...[0, 1, 3, 17, large].flatMap((size) => [zeros([size], options), full([size], 1, options)]),
        full([5], like.dtype === "bool" ? 1 : 3, options),
      ];
    },
  },
  "fill with what is not finite": {
    dtypes: floats,
    run(make) {
      const { backend, dtype } = make([1]);
      return [Number.NaN, Number.NEGATIVE_INFINITY, -0.1].map((value) => full([33], value, { backend, dtype }));
    },
  },
  broadcastTo: { dtypes: ["f32", "bf16", "i32"], run: (make) => broadcastTo(make([2, 1]), [2, 3]) },
});

const reduced: readonly (readonly [shape: Shape, axis: number])[] = [
  [[1], 0],
  [[large], 0],
  [[3, 129], 1],
  [[5, 1], 1],
  [[5, 1, 7], 1],
  [[4, 33, 65], 1],
  [[1000, 7], 1],
  [[5, 4097], 0],
  [[7, 4097], 1],
  [[2, 257, 129], 1],
  [[0, 5, 3], 1],
];

agrees("reductions", {
  ...Object.fromEntries(
    floats.map((dtype): [string, Case] => [
      `sum of ${dtype}`,
      {
        dtypes: [dtype],
        // Partial sums in f32; 16-bit results are rounded once.
        ulps: dtype === "f32" ? 32 : 1,
        relativeToLargest: true,
        run: (make) => reduced.filter(([shape]) => sizeOf(shape) < large).map(([shape, axis]) => make(shape).sum(axis)),
      },
    ]),
  ),
  "sum of many": {
    dtypes: ["f32"],
    ulps: 32,
    run: (make) => [make([large]).abs().sum(), make([2, 100_003]).abs().sum(1), make([100_003, 2]).abs().sum(0)],
  },
  "sum of 16-bit floats is rounded once": {
    dtypes: ["bf16", "f16"],
    ulps: 1,
    run: (make) => [make([4096]).abs().sum(), make([257, 3]).abs().sum(0), make([3, 257]).abs().sum(1)],
  },
  "sum of integers": {
    dtypes: ["i32"],
    run: (make) => reduced.map(([shape, axis]) => make(shape).sum(axis)),
  },
  "sum of nothing": {
    dtypes: ["f32", "bf16", "i32"],
    run: (make) => [make([0, 3]).sum(0), make([3, 0]).sum(1), make([0, 3]).sum(1)],
  },
  "sum of special values": {
    dtypes: floats,
    run: (make) => [make([12], special).sum(), make([2, 2], [Number.POSITIVE_INFINITY, 1, 2, 3]).sum(1)],
  },
  max: { dtypes: [...floats, "i32"], run: (make) => reduced.map(([shape, axis]) => make(shape).max(axis)) },
  "max of special values": {
    dtypes: floats,
    run: (make) => [
      make([12], special).max(0),
      make([3, 12], special).max(0),
      make([40], [Number.NEGATIVE_INFINITY]).max(0),
      make([300, 2], [1, 2, Number.NaN, 3]).max(0),
    ],
  },
  argmax: { dtypes: [...floats, "i32"], run: (make) => reduced.map(([shape, axis]) => make(shape).argmax(axis)) },
  "argmax, the first of equals": {
    dtypes: [...floats, "i32"],
    run: (make) => [
      make([2, 4], [1, 3, 3, 2, 5, 5, 1, 5]).argmax(1),
      make([large], [0, 2, 1, 2]).argmax(0),
      make([1031, 9], [1, 3, 3, 0]).argmax(0),
      make([40], [Number.NEGATIVE_INFINITY]).argmax(0),
    ],
  },
});

agrees("movement", {
  permute: {
    dtypes: all,
    run: (make) => [
      make([2, 3, 4]).permute([2, 0, 1]),
      make([33, 65]).transpose(),
      make([7]).permute([0]),
      make([]).permute([]),
      make([0, 3]).transpose(),
      make([2, 17, 4, 16]).permute([0, 2, 1, 3]),
      make([2, 3, 4, 5, 6]).permute([4, 2, 0, 3, 1]),
      make([257, 131]).transpose(),
    ],
  },
  slice: {
    dtypes: all,
    run: (make) => [
      make([4, 9]).slice(1, 2, 7),
      make([4, 16, 8]).slice(1, 8, 16),
      make([4, 16, 8]).slice(2, 3, 4),
      make([5, 6]).slice(1, 3, 3),
      make([131, 1025]).slice(1, 1, 1024),
      // A view of a view.
      make([9, 7]).slice(0, 2, 8).slice(0, 1, 3).slice(1, 1, 6),
    ],
  },
  concat: {
    dtypes: all,
    run: (make) => [
      concat([make([2, 3]), make([2, 1]), make([2, 5])], 1),
      concat([make([3]), make([0]), make([4])], 0),
      concat([make([2, 3, 4]), make([2, 8, 4])], 1),
      concat([make([129, 513]), make([129, 515])], 1),
    ],
  },
  gatherRows: {
    dtypes: all,
    run: (make) => [
      make([5, 3]).gatherRows(make([4], [4, -1, 0, 4], "i32")),
      make([5, 64]).gatherRows(make([7], [0, 4, 2], "i32")),
      make([5, 3]).gatherRows(make([0], [], "i32")),
      make([300, 897]).gatherRows(make([1200], [299, 0, 17, -1, 255], "i32")),
    ],
  },
  scatterRows: {
    dtypes: [...floats, "i32"],
    run: (make) => [
      make([4, 3]).scatterRows(make([4], [1, 3, 1, -1], "i32"), 5),
      make([4, 3]).scatterRows(make([4], [-1], "i32"), 2),
      make([0, 3]).scatterRows(make([0], [], "i32"), 2),
      // In the order of x: the roundings of f32 are those of one loop.
      make([999, 64]).scatterRows(make([999], [7, 0, 7, 13, 40, 7], "i32"), 41),
      make([513, 897]).scatterRows(make([513], undefined, "i32").abs(), 64),
    ],
  },
  "pick and its transpose": {
    dtypes: [...floats, "i32"],
    run: (make) => [
      make([4, 3]).pick(make([4], [2, 0, 1, 1], "i32")),
      make([1000, 33]).pick(make([1000], [32, 0, 17], "i32")),
      make([0, 3]).pick(make([0], [], "i32")),
      unpick(make([3]), make([3], [2, 0, 1], "i32"), 4),
      unpick(make([1000]), make([1000], [32, 0, 17], "i32"), 33),
    ],
  },
  "writing in place leaves the rest alone": {
    dtypes: all,
    run(make) {
      const one = make([33]);
      one.slice(0, 3, 10).assign(make([7]));
      const whole = make([large]);
      whole.slice(0, 1, large).assign(make([large - 1]));
      const rows = make([9, 5]);
      setRows(rows, make([3], [8, 0, 4], "i32"), make([3, 5]));
      const many = make([300, 128]);
      setRows(
        many.slice(0, 1, 300),
        make(
          [100],
          Array.from({ length: 100 }, (_, i) => 298 - i),
          "i32",
        ),
        make([100, 128]),
      );
      const none = make([2, 3]);
      setRows(none, make([0], [], "i32"), make([0, 3]));
      return [one, whole, rows, many, none];
    },
  },
  "accumulation in place": {
    dtypes: floats,
    run(make) {
      const wide = make([33], undefined, "f32");
      const part = wide.slice(0, 5, 12);
      part.backend.accumulate(part, make([7]));
      const whole = make([large], undefined, "f32");
      whole.backend.accumulate(whole, make([large]));
      return [wide, whole];
    },
  },
});

function unpick(x: Tensor, index: Tensor, columns: number): Tensor {
  return fresh(x.backend.unpick(x, index, columns), [x.size, columns]);
}
