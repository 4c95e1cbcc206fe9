import test from "ava";
import {
  Arena,
  arena,
  backward,
  checkpoint,
  createCpu,
  type DType,
  linear,
  noGrad,
  rmsNorm,
  setRows,
  type Tensor,
  tensor,
} from "../../lib/index.js";
import { kernels as backend, normals, values } from "./support.js";

function parameter(numbers: ArrayLike<number>, dtype: DType = "f32", shape: number[] = [numbers.length]): Tensor {
  const x = tensor(numbers, { backend, dtype, shape });
  x.requiresGrad = true;
  return x;
}
const constant = (...numbers: number[]) => tensor(numbers, { backend });

test("gradients of several backward passes add up, until they are cleared", async (t) => {
  const x = parameter([1, 2]);
  x.square().sum().backward();
  x.mul(10).sum().backward();
  t.deepEqual(await values(x.grad!), [12, 14]);
  x.grad!.dispose();
  x.grad = undefined;
  x.sum().backward();
  t.deepEqual(await values(x.grad!), [1, 1]);
});

test("a gradient that is held is not overwritten by the next pass into another leaf", async (t) => {
  const [a, b] = [parameter([1]), parameter([2])];
  a.add(b).backward();
  const first = await values(b.grad!);
  a.mul(5).backward();
  t.deepEqual(await values(a.grad!), [6]);
  t.deepEqual(await values(b.grad!), first);
});

test("a shared result receives the sum of what flows back through each use", async (t) => {
  const x = parameter([3]);
  const y = x.square();
  const z = y.mul(y).add(y).sub(y.mul(2)); // x⁴ − x²
  z.backward();
  t.deepEqual(await values(x.grad!), [4 * 27 - 2 * 3]);
});

test("a diamond of many levels costs one visit a node, not one a path", async (t) => {
  const x = parameter([1]);
  let y: Tensor = x;
  for (let level = 0; level < 60; level++) y = y.add(y).mul(0.5);
  y.backward();
  t.deepEqual(await values(x.grad!), [1]);
});

test("a deep chain does not run out of stack", async (t) => {
  const x = parameter([1]);
  const y = arena(() => {
    let deep: Tensor = x;
    for (let level = 0; level < 20_000; level++) deep = deep.add(0.001);
    return deep;
  });
  y.backward();
  t.deepEqual(await values(x.grad!), [1]);
});

test("the gradient of an operation of two outputs reaches it from either or both", async (t) => {
  const run = async (weights: readonly [number, number]) => {
    const x = parameter([1, 2, 3, 4]);
    const parts = [x.slice(0, 0, 2), x.slice(0, 2, 4)];
    const used = parts.map((part, i) => part.sum().mul(weights[i])).filter((_, i) => weights[i] !== 0);
    backward(used);
    return values(x.grad!);
  };
  t.deepEqual(await run([1, 0]), [1, 1, 0, 0]);
  t.deepEqual(await run([0, 5]), [0, 0, 5, 5]);
  t.deepEqual(await run([2, 3]), [2, 2, 3, 3]);
});

test("backward from several outputs at once, each with its gradient", async (t) => {
  const x = parameter([1, 2]);
  const shared = x.mul(2);
  backward([shared.sum(), shared.square()], [undefined, constant(1, 10)]);
  t.deepEqual(await values(x.grad!), [2 + 8, 2 + 160]);
});

test("the given gradient stays the caller's, unchanged", async (t) => {
  const x = parameter([1, 2]);
  const given = constant(3, 4);
  backward([x.add(0)], [given]);
  backward([x.add(0)], [given]);
  t.deepEqual(await values(given), [3, 4]);
  t.deepEqual(await values(x.grad!), [6, 8]);
});

test("a leaf is its own gradient's destination", async (t) => {
  const x = parameter([1, 2]);
  backward([x], [constant(5, 6)]);
  t.deepEqual(await values(x.grad!), [5, 6]);
});

test("a graph is used once", (t) => {
  const x = parameter([1]);
  const y = x.exp();
  const [a, b] = [y.mul(2), y.mul(3)];
  a.backward();
  t.throws(() => a.backward(), { message: /graph of mul was used already; run its forward again/ });
  t.throws(() => b.backward(), { message: /graph of exp was used already/ });
});

test("what backward needs must not have been written to since", (t) => {
  const w = parameter([1, 2]);
  const loss = w.mul(w).sum();
  w.assign(constant(3, 4));
  t.throws(() => loss.backward(), { message: /a tensor that mul saved was overwritten/ });

  const rows = parameter([1, 2, 3, 4], "f32", [2, 2]);
  const other = rows.exp().sum();
  setRows(rows, tensor([0], { backend, dtype: "i32" }), tensor([[9, 9]], { backend }));
  t.throws(() => other.backward(), { message: /exp saved was overwritten/ });

  const view = parameter([1, 2, 3]);
  const third = view.slice(0, 0, 2).square().sum();
  view.assign(constant(0, 0, 0));
  t.throws(() => third.backward(), { message: /square saved was overwritten/ });
});

test("a write that backward does not depend on is no error", async (t) => {
  const w = parameter([1, 2]);
  const loss = w.add(1).sum();
  w.assign(constant(3, 4));
  loss.backward();
  t.deepEqual(await values(w.grad!), [1, 1]);
});

test("noGrad records nothing, also inside arenas and after an error", (t) => {
  const x = parameter([1]);
  t.false(noGrad(() => x.mul(2)).requiresGrad);
  t.false(noGrad(() => arena(() => x.mul(2))).requiresGrad);
  t.throws(() =>
    noGrad(() => {
      throw new Error("inside");
    }),
  );
  t.true(x.mul(2).requiresGrad);
});

test("detach cuts the graph and shares the values", async (t) => {
  const x = parameter([3]);
  const cut = x.square().detach();
  t.false(cut.requiresGrad);
  x.mul(cut).backward();
  t.deepEqual(await values(x.grad!), [9]);
});

test("integers, booleans and constants take no gradient", (t) => {
  const x = parameter([1, 2]);
  t.false(x.greater(1).requiresGrad);
  t.false(x.argmax(0).requiresGrad);
  t.false(x.to("i32").requiresGrad);
  const c = constant(1, 1);
  x.mul(c).sum().backward();
  t.is(c.grad, undefined);
});

test("an output that is not a scalar needs its gradient, of its shape and dtype", (t) => {
  const x = parameter([1, 2]);
  t.throws(() => x.mul(2).backward(), { message: /shape \[2\] needs its gradient given/ });
  t.throws(() => x.mul(2).backward(constant(1, 2, 3)), { message: /gradient f32 \[3\] for an output of f32 \[2\]/ });
  const half = parameter([1, 2], "bf16");
  t.throws(() => half.mul(2).backward(constant(1, 2)), { message: /gradient f32 \[2\] for an output of bf16 \[2\]/ });
});

for (const dtype of ["bf16", "f16"] as const) {
  test(`gradients of ${dtype} parameters are held and summed in f32`, async (t) => {
    const w = parameter([1], dtype);
    for (let i = 0; i < 300; i++) w.mul(1).sum().backward();
    t.is(w.grad!.dtype, "f32");
    t.deepEqual(await values(w.grad!), [300]);
    const x = parameter([2, 3], dtype);
    x.to("f32").square().sum().backward();
    t.deepEqual(await values(x.grad!), [4, 6]);
  });
}

test("f64 parameters have f64 gradients", async (t) => {
  const x = parameter([0.1], "f64");
  x.square().sum().backward();
  t.is(x.grad!.dtype, "f64");
  t.deepEqual(await values(x.grad!), [0.2]);
});

/** A small residual network; `wrap` decides how each layer runs. */
function network(dtype: DType, wrap: (layer: (x: Tensor) => Tensor, x: Tensor) => Tensor) {
  const [size, tokens] = [12, 5];
  const weights = [1, 2, 3].map((seed) => parameter(normals(seed, size * size, 0.4), dtype, [size, size]));
  const scale = parameter(normals(4, size), dtype);
  const input = parameter(normals(5, tokens * size), dtype, [tokens, size]);
  let x: Tensor = input;
  for (const w of weights) x = wrap((h) => linear(rmsNorm(h, scale), w).silu().add(h), x);
  const loss = x.to("f32").square().mean();
  loss.backward();
  const grads = [input, scale, ...weights].map(({ grad }) => values(grad!));
  return Promise.all([values(loss), ...grads]);
}

for (const dtype of ["f32", "bf16"] as const) {
  test(`checkpoint, ${dtype}, changes no bit of loss and gradients, nor of those of parameters that it closes over`, async (t) => {
    const plain = await network(dtype, (layer, x) => layer(x));
    t.deepEqual(await network(dtype, (layer, x) => checkpoint(layer, x)), plain);
    const inArenas = await network(dtype, (layer, x) => arena(() => checkpoint((h) => arena(() => layer(h)), x)));
    t.deepEqual(inArenas, plain);
  });
}

test("checkpoint leaves no buffer behind, whatever the dtype", (t) => {
  for (const dtype of ["f32", "bf16"] as const) {
    const own = createCpu({ poison: true });
    const x = tensor([1, 2], { backend: own, dtype });
    x.requiresGrad = true;
    const double = (h: Tensor) => checkpoint((g) => g.exp().mul(g), h);
    const y = arena(() => double(double(x)));
    arena(() => y.sum().to("f32").backward());
    arena(() => double(x.mul(2)).sum().to("f32").backward());
    t.is(own.memory().buffers, 3, `${dtype}: x, its gradient, y`);
  }
});

test("checkpoint recomputes once, in backward, and not at all under noGrad", (t) => {
  const x = parameter([1, 2]);
  let calls = 0;
  const f = (h: Tensor) => {
    calls++;
    return h.exp();
  };
  const y = checkpoint(f, x);
  t.is(calls, 1);
  y.sum().backward();
  t.is(calls, 2);
  noGrad(() => checkpoint(f, x));
  t.is(calls, 3);
});

test("checkpoint passes gradients to each of its inputs that wants one", async (t) => {
  const [a, b] = [parameter([2]), parameter([5])];
  const c = constant(7);
  checkpoint((x, y, z) => x.mul(y).mul(z), a, b, c).backward();
  t.deepEqual(await values(a.grad!), [35]);
  t.deepEqual(await values(b.grad!), [14]);
  t.is(c.grad, undefined);
});

test("checkpoint of a constant still reaches the parameters inside", async (t) => {
  const w = parameter([3]);
  checkpoint((x) => x.mul(w), constant(2)).backward();
  t.deepEqual(await values(w.grad!), [2]);
});

test("an update between forward and backward of a checkpoint is found out", (t) => {
  const x = parameter([1]);
  const y = checkpoint((h) => h.exp(), x);
  x.assign(constant(2));
  t.throws(() => y.backward(), { message: /checkpoint saved was overwritten/ });
});

test("checkpoint lowers the peak of memory", (t) => {
  const peak = (wrap: (layer: (x: Tensor) => Tensor, x: Tensor) => Tensor) => {
    const own = createCpu();
    const step = new Arena();
    step.run(() => {
      const leaf = tensor(new Float32Array(10_000).fill(0.1), { backend: own });
      leaf.requiresGrad = true;
      let x: Tensor = leaf;
      for (let i = 0; i < 20; i++) x = arena(() => wrap((h) => h.sin().exp().tanh().cos().add(h), x));
      x.sum().backward();
      leaf.grad!.dispose();
    });
    step.dispose();
    return own.memory().peakBytes;
  };
  const [plain, recomputed] = [peak((layer, x) => layer(x)), peak((layer, x) => checkpoint(layer, x))];
  t.true(recomputed < plain / 2.5, `${recomputed} of ${plain}`);
});
