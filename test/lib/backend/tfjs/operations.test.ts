import { broadcastTo, concat, linear, type Shape, where } from "../../../../lib/index.js";
import { agrees, devices, type Source } from "./devices.js";

const special = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 1, -1, 0.5, -2.5, 60, -60];
const unaryOps = "neg abs sign exp log sqrt rsqrt square reciprocal sigmoid silu tanh relu sin cos".split(
  " ",
) as "neg"[];
const arithmetic = ["add", "sub", "mul", "div", "maximum", "minimum", "pow"] as const;
const comparisons = ["equal", "notEqual", "less", "lessEqual", "greater", "greaterEqual"] as const;
const integers = [7, -7, 0, 5, 2, -3];
const broadcasts: readonly (readonly [Shape, Shape])[] = [
  [[], []],
  [[4], []],
  [[2, 3], [3]],
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
];

agrees("unary operations", {
  ...Object.fromEntries(unaryOps.map((op) => [op, (make: Source) => make([3, 7])[op]()])),
  ...Object.fromEntries(
    unaryOps
      .filter((op) => !["sign", "sin", "cos"].includes(op))
      .map((op) => [`${op} of special values`, (make: Source) => make([10], special)[op]()]),
  ),
  "of integers": (make) =>
    ["neg", "abs", "sign", "square", "relu"].map((op) => make([6], integers, "i32")[op as "neg"]()),
  logicalNot: (make) => [
    make([3], [0, 2, -1]).logicalNot(),
    make([3], [0, 2, -1], "i32").logicalNot(),
    make([2], [0, 1], "bool").logicalNot(),
  ],
  "of nothing": (make) => make([0, 3]).exp(),
});

// An engine alone takes the sign of NaN for 0.
agrees("sign of special values", { sign: (make) => make([10], special).sign() }, 0, devices.slice(0, 2));

agrees("binary operations", {
  ...Object.fromEntries(
    [...arithmetic, ...comparisons].flatMap((op) => [
      [op, (make: Source) => broadcasts.map(([a, b]) => make(a).abs()[op](make(b)))],
      [`${op} of special values`, (make: Source) => make([10, 1], special)[op](make([10], special))],
      [`${op} of integers`, (make: Source) => make([6], integers, "i32")[op](make([6], [2, 2, 3, -3, 2, -3], "i32"))],
    ]),
  ),
  "comparison of bools": (make) => make([4], [0, 1, 0, 1], "bool").equal(make([4], [0, 0, 1, 1], "bool")),
});

agrees("selection and conversion", {
  where: (make) => [
    where(make([2, 3]).greater(0), make([2, 3]), make([3])),
    where(make([2, 1], [1, 0], "bool"), make([3]), make([])),
    where(make([3], [1, 0, 1], "bool"), make([3], [1, 2, 3], "i32"), make([], [-1], "i32")),
    where(make([1], [0], "bool"), make([0, 3]), make([0, 3])),
  ],
  "casts truncate": (make) => make([6], [1.7, -1.7, -0.2, 2.5, 1e6, -3]).to("i32"),
  "casts to bool": (make) => [make([4], [0, 0.2, -3, 256]).to("bool"), make([3], [0, 256, -1], "i32").to("bool")],
  "casts to numbers": (make) => [
    make([2], [5, -7], "i32").to("f32"),
    make([2], [0, 1], "bool").to("f32"),
    make([2], [0, 1], "bool").to("i32"),
  ],
  fill: (make) => broadcastTo(make([2, 1]), [2, 3]),
});

agrees("reductions", {
  sum: (make) => [make([4, 5]).sum(), make([4, 5]).sum(0), make([4, 5]).sum(1, true), make([2, 3, 4]).sum(1)],
  "sum of integers": (make) => make([2, 3], integers, "i32").sum(1),
  "sum of nothing": (make) => [make([0, 3]).sum(0), make([3, 0]).sum(1), make([0, 3]).sum(1)],
  max: (make) => [make([4, 5]).max(0), make([2, 3, 4]).max(1, true), make([6], integers, "i32").max(0)],
  "max of special values": (make) => [
    make([10], special).max(0),
    make([2], [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]).max(0),
  ],
  "argmax, the first of equals": (make) => [
    make([2, 4], [1, 3, 3, 2, 5, 5, 1, 5]).argmax(1),
    make([2, 3, 4]).argmax(1),
    make([6], integers, "i32").argmax(0),
  ],
});

const products: readonly (readonly [m: number, n: number, k: number])[] = [
  [1, 1, 1],
  [2, 3, 4],
  [5, 7, 9],
  [1, 33, 20],
  [130, 70, 40],
  [3, 4, 0],
  [0, 4, 3],
];
agrees(
  "matrix products",
  Object.fromEntries(
    products.map(([m, n, k]) => [
      `${m}·${n}·${k}`,
      (make) => {
        const [a, at, b, bt] = [make([m, k]), make([k, m]), make([k, n]), make([n, k])];
        const batched = [make([2, m, k]), make([2, k, m]), make([2, k, n]), make([2, n, k])];
        return [
          a.matmul(b),
          a.matmul(bt, { transposeB: true }),
          at.matmul(b, { transposeA: true }),
          at.matmul(bt, { transposeA: true, transposeB: true }),
          batched[0].matmul(batched[3], { transposeB: true }),
          batched[1].matmul(batched[2], { transposeA: true }),
          linear(a, bt, { bias: make([n]) }),
        ];
      },
    ]),
  ),
  1e-5,
);

agrees("movement", {
  permute: (make) => [
    make([2, 3, 4]).permute([2, 0, 1]),
    make([2, 3, 4]).permute([0, 1, 2]),
    make([2, 1, 3, 1, 2]).permute([4, 3, 2, 1, 0]),
    make([2, 3], integers, "i32").transpose(),
    make([0, 3]).transpose(),
  ],
  slice: (make) => [
    make([4, 3]).slice(1, 1, 3),
    make([2, 3, 4]).slice(2, -2).slice(0, 1),
    make([2, 3], integers, "i32").slice(1, 0, 2),
    make([2, 3]).slice(1, 1, 1),
  ],
  concat: (make) => [
    concat([make([2, 3]), make([2, 1]), make([2, 0])], 1),
    concat([make([1, 2, 2]), make([3, 2, 2])], 0),
    concat([make([2], [1, 2], "i32"), make([1], [3], "i32")], 0),
    concat([make([1], [1], "bool"), make([2], [0, 1], "bool")], 0),
  ],
  gatherRows: (make) => [
    make([5, 3]).gatherRows(make([4], [4, 0, 0, 2], "i32")),
    make([5, 3]).gatherRows(make([4], [-1, 3, -1, 0], "i32")),
    make([5, 3]).gatherRows(make([0], [], "i32")),
    make([3, 2], integers, "i32").gatherRows(make([2], [2, -1], "i32")),
    make([2, 2], [Number.NaN, 1, 2, 3]).gatherRows(make([2], [-1, 1], "i32")),
  ],
  scatterRows: (make) => [
    make([5, 3]).scatterRows(make([5], [1, 0, 1, -1, 1], "i32"), 4),
    make([0, 3]).scatterRows(make([0], [], "i32"), 2),
  ],
  "pick and unpick": (make) => {
    const x = make([3, 4]);
    x.requiresGrad = true;
    const y = x.pick(make([3], [3, 0, 2], "i32"));
    y.backward(make([3]));
    return [y, x.grad!];
  },
});
