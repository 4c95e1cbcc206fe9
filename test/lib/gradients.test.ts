import test from "ava";
import { record } from "../../lib/autograd.js";
import {
  attention,
  broadcastTo,
  checkpoint,
  concat,
  linear,
  linearLogprob,
  noGrad,
  qkNorm,
  rmsNorm,
  rope,
  type Shape,
  swiglu,
  type Tensor,
  tensor,
  where,
} from "../../lib/index.js";
import { embedding } from "../../lib/ops/embedding.js";
import { scatterRows } from "../../lib/ops/rows.js";
import { type GradientCase, gradientError, type Operand } from "./gradientCheck.js";
import { backends, composed, normals } from "./support.js";

let seed = 0;
/** Normal values. */
function any(...shape: number[]): Operand {
  return { shape, values: normals(++seed, size(shape)) };
}
/** Values of both signs at least 0.2 from zero. */
function offZero(...shape: number[]): Operand {
  return { shape, values: normals(++seed, size(shape)).map((x) => x + 0.2 * Math.sign(x)) };
}
/** Values in [0.3, …). */
function positive(...shape: number[]): Operand {
  return { shape, values: normals(++seed, size(shape)).map((x) => Math.abs(x) + 0.3) };
}
/** Values in [0.4, 2), without ties; two with offsets 0.5 and 0.45 lie between each other. */
function mixed(offset: number, shape: number[]): Operand {
  return {
    shape,
    values: Float64Array.from({ length: size(shape) }, (_, i) => 0.4 + 1.6 * (((i + offset) * 0.618) % 1)),
  };
}
function size(shape: Shape): number {
  return shape.reduce((a, b) => a * b, 1);
}
/** An index tensor on the device of `like`. */
function ints(like: Tensor, values: number[]): Tensor {
  return tensor(values, { backend: like.backend, dtype: "i32" });
}

const unary: Record<string, Operand> = {
  neg: any(5),
  abs: offZero(6),
  exp: any(5),
  log: positive(5),
  sqrt: positive(5),
  rsqrt: positive(5),
  square: any(5),
  reciprocal: offZero(5),
  sigmoid: any(5),
  silu: any(5),
  tanh: any(5),
  relu: offZero(8),
  sin: any(5),
  cos: any(5),
  softmax: any(3, 4),
  logSoftmax: any(3, 4),
};

const pairs: [a: number[], b: number[]][] = [
  [
    [3, 4],
    [3, 4],
  ],
  [
    [2, 3, 1],
    [3, 4],
  ],
  [[4], [3, 1, 4]],
  [[], [2, 3]],
  [[2, 1, 3], [1]],
];
const binary = ["add", "sub", "mul", "div", "maximum", "minimum", "pow"] as const;

const others: Record<string, GradientCase> = {
  "add, the same tensor twice": { inputs: [any(4)], run: (x) => x.add(x) },
  "mul, the same tensor twice": { inputs: [any(4)], run: (x) => x.mul(x) },
  "arithmetic with numbers": { inputs: [positive(4)], run: (x) => x.mul(3).add(1).div(2).sub(0.1).pow(2.5) },
  "mul of a leading slice": { inputs: [any(5, 3)], run: (x) => x.slice(0, 1, 4).mul(x.slice(0, 2, 5)) },
  "mul of a view of a view": { inputs: [any(6, 2)], run: (x) => x.slice(0, 1).reshape([5, 2]).slice(0, 2, 4).square() },
  reshape: { inputs: [any(4, 3)], run: (x) => x.reshape([2, -1]).square() },
  "permute of three axes": { inputs: [any(2, 3, 4)], run: (x) => x.permute([2, 0, 1]).square() },
  transpose: { inputs: [any(2, 3, 4)], run: (x) => x.transpose().square() },
  "slice of an inner axis": { inputs: [any(3, 5)], run: (x) => x.slice(1, 1, -1).square() },
  "slice to the end": { inputs: [any(3, 5, 2)], run: (x) => x.slice(-2, 2).square() },
  "concat along the first axis": { inputs: [any(2, 3), any(1, 3)], run: (...parts) => concat(parts, 0).square() },
  "concat along the last axis": {
    inputs: [any(2, 3), any(2, 1), any(2, 2)],
    run: (...parts) => concat(parts, -1).square(),
  },
  "concat with an empty part": { inputs: [any(2, 3)], run: (x) => concat([x.slice(1, 0, 0), x], 1).square() },
  "sum of everything": { inputs: [any(3, 4)], run: (x) => x.square().sum() },
  "sum along the first axis": { inputs: [any(3, 4)], run: (x) => x.sum(0).square() },
  "sum along a middle axis, kept": { inputs: [any(2, 3, 4)], run: (x) => x.sum(1, true).square() },
  "sum of everything, kept": { inputs: [any(2, 3)], run: (x) => x.sum(undefined, true).square() },
  "mean along the last axis": { inputs: [any(3, 4)], run: (x) => x.mean(-1).square() },
  "mean of everything": { inputs: [any(3, 4)], run: (x) => x.square().mean() },
  "max along the first axis": { inputs: [any(4, 3)], run: (x) => x.max(0).square() },
  "max along the last axis, kept": { inputs: [any(3, 4)], run: (x) => x.max(-1, true).square() },
  broadcastTo: { inputs: [any(2, 1, 3)], run: (x) => broadcastTo(x, [4, 2, 2, 3]).square() },
  where: {
    inputs: [any(2, 3), any(3)],
    run: (a, b) => where(tensor([[true], [false]], { backend: a.backend, dtype: "bool" }), a, b).square(),
  },
  gatherRows: { inputs: [any(4, 3)], run: (x) => x.gatherRows(ints(x, [2, 0, -1, 2, 3])).square() },
  scatterRows: { inputs: [any(5, 3)], run: (x) => scatterRows(x, ints(x, [1, 3, 1, -1, 0]), 4).square() },
  pick: { inputs: [any(4, 3)], run: (x) => x.pick(ints(x, [2, 0, 0, 1])).square() },
  embedding: { inputs: [any(4, 3)], run: (x) => embedding(x, ints(x, [2, 0, 2, 3])).square() },
  "linear without bias": { inputs: [any(4, 3), any(5, 3)], run: (x, w) => linear(x, w).square() },
  "linear with bias": { inputs: [any(4, 3), any(5, 3), any(5)], run: (x, w, b) => linear(x, w, { bias: b }).square() },
  "matmul of a leading slice": { inputs: [any(5, 3), any(3, 2)], run: (a, b) => a.slice(0, 1, 4).matmul(b).square() },
  checkpoint: {
    inputs: [any(3, 4), any(4, 2)],
    run: (a, b) => checkpoint((x, y) => x.matmul(y).tanh(), a, b).square(),
  },
  "checkpoint in a checkpoint": {
    inputs: [any(3, 4)],
    run: (a) => checkpoint((x) => checkpoint((y) => y.sin(), x.square()).mul(x), a),
  },
};
for (const transposeA of [false, true]) {
  for (const transposeB of [false, true]) {
    for (const batch of [[], [2], [2, 1]]) {
      const [a, b] = [transposeA ? [3, 2] : [2, 3], transposeB ? [4, 3] : [3, 4]];
      others[`matmul, batch [${batch}], transposes ${transposeA} ${transposeB}`] = {
        inputs: [any(...batch, ...a), any(...batch, ...b)],
        run: (x, y) => x.matmul(y, { transposeA, transposeB }).square(),
      };
    }
  }
}

const layout = { heads: 4, kvHeads: 2, headDim: 6 };
const width = 8 * 6;
const offsets = Int32Array.from([0, 3, 3, 4, 8]);

/** Each runs as kernel and composed. */
const fused: Record<string, GradientCase> = {
  rmsNorm: { inputs: [any(3, 6), any(6)], run: (x, w) => rmsNorm(x, w, 0.01) },
  "rmsNorm of three axes": { inputs: [any(2, 2, 4), any(4)], run: (x, w) => rmsNorm(x, w) },
  qkNorm: { inputs: [any(2, width), any(6), any(6)], run: (x, q, k) => qkNorm(x, q, k, layout, 0.01) },
  rope: { inputs: [any(3, width)], run: (x) => rope(x, ints(x, [0, 7, 100]), { ...layout, theta: 1e4 }).square() },
  swiglu: { inputs: [any(3, 10)], run: swiglu },
  attention: { inputs: [any(8, width)], run: (x) => attention(x, offsets, layout) },
  "attention, one key head": {
    inputs: [any(8, 5 * 2)],
    run: (x) => attention(x, offsets, { heads: 3, kvHeads: 1, headDim: 2 }),
  },
  "linearLogprob, log-probabilities and entropy": {
    inputs: [any(4, 5), any(7, 5)],
    run: (h, w) => Object.values(linearLogprob(h, w, ints(h, [6, 0, 3, 3]), 0.7)),
  },
  "linearLogprob, log-probabilities alone": {
    inputs: [any(4, 5), any(7, 5)],
    run: (h, w) => linearLogprob(h, w, ints(h, [6, 0, 3, 3])).logprobs,
  },
  "linearLogprob, entropy alone": {
    inputs: [any(4, 5), any(7, 5)],
    run: (h, w) => linearLogprob(h, w, ints(h, [6, 0, 3, 3]), 1.5).entropy,
  },
};

for (const [op, operand] of Object.entries(unary)) {
  test(`gradient of ${op}`, async (t) => {
    const run = (x: Tensor) => (x as unknown as Record<string, () => Tensor>)[op]();
    t.is(await gradientError(composed, { inputs: [operand], run }), undefined);
  });
}
for (const op of binary) {
  test(`gradient of ${op} over every broadcast`, async (t) => {
    for (const [a, b] of pairs) {
      const inputs = [mixed(0.5, a), mixed(0.45, b)];
      t.is(await gradientError(composed, { inputs, run: (x, y) => x[op](y) }), undefined, `[${a}] and [${b}]`);
    }
  });
}
for (const [name, example] of Object.entries(others)) {
  test(`gradient of ${name}`, async (t) => t.is(await gradientError(composed, example), undefined));
}
for (const [half, backend] of backends) {
  for (const [name, example] of Object.entries(fused)) {
    test(`gradient of ${name}, ${half}`, async (t) => t.is(await gradientError(backend, example), undefined));
  }
}

/** x² with a rule of the caller's choice. */
function squareWith(rule: (dy: Tensor, x: Tensor) => Tensor): (x: Tensor) => Tensor {
  return (x) => {
    const y = noGrad(() => x.square());
    record("wrong", [x], y, [x], ([dy]) => [rule(dy!, x.detach())]);
    return y;
  };
}

const wrong: Record<string, [run: GradientCase["run"], found: RegExp]> = {
  "a wrong factor": [squareWith((dy, x) => dy.mul(x)), /relative error 0\.5/],
  "a wrong sign": [squareWith((dy, x) => dy.mul(x).mul(-2)), /relative error (2|1\.99)/],
  "an error of one part in a million": [squareWith((dy, x) => dy.mul(x).mul(2.000002)), /relative error/],
  "a missing term": [(x) => x.mul(x.detach()), /relative error/],
  "no gradient at all": [(x) => x.detach().square(), /no gradient/],
  "one wrong row": [
    squareWith((dy, x) =>
      dy
        .mul(x)
        .mul(2)
        .mul(tensor([[1], [1], [0.99]], { backend: x.backend, dtype: "f64" })),
    ),
    /relative error/,
  ],
  "a case that could not fail": [(x) => x.sub(x), /shows nothing/],
};
for (const [what, [run, found]] of Object.entries(wrong)) {
  test(`the check finds ${what}`, async (t) => {
    t.regex((await gradientError(composed, { inputs: [any(3, 4)], run })) ?? "nothing", found);
  });
}
test("the check accepts the right rule for the same function", async (t) => {
  t.is(await gradientError(composed, { inputs: [any(3, 4)], run: squareWith((dy, x) => dy.mul(x).mul(2)) }), undefined);
});
