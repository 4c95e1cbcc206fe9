import test from "ava";
import {
  AdamW,
  type AdamWOptions,
  arena,
  type Backend,
  clipScale,
  createCpu,
  type DType,
  gradNorm,
  InputError,
  noGrad,
  type OptimizerState,
  randomStream,
  Tensor,
  tensor,
  trainable,
} from "../../../lib/index.js";

function parameter(backend: Backend, values: ArrayLike<number>, dtype: DType = "f32", shape = [values.length]): Tensor {
  const x = tensor(values, { backend, dtype, shape });
  x.requiresGrad = true;
  return x;
}

function setGrad(x: Tensor, values: ArrayLike<number>): void {
  x.grad?.dispose();
  x.grad = tensor(values, { backend: x.backend, dtype: x.dtype === "f64" ? "f64" : "f32", shape: x.shape });
}

function normals(seed: number, length: number): Float32Array {
  const random = randomStream(seed);
  return Float32Array.from({ length }, () => random.normal());
}

/** torch.optim.AdamW of PyTorch's documentation, in f64. */
class Reference {
  readonly m: number[];
  readonly v: number[];
  #t = 0;
  constructor(
    readonly w: number[],
    readonly o: Required<AdamWOptions>,
  ) {
    this.m = w.map(() => 0);
    this.v = w.map(() => 0);
  }
  step(grad: ArrayLike<number>, lr = this.o.lr): void {
    const [beta1, beta2] = this.o.betas;
    this.#t++;
    for (let i = 0; i < this.w.length; i++) {
      this.w[i] -= lr * this.o.weightDecay * this.w[i];
      this.m[i] = beta1 * this.m[i] + (1 - beta1) * grad[i];
      this.v[i] = beta2 * this.v[i] + (1 - beta2) * grad[i] ** 2;
      const mHat = this.m[i] / (1 - beta1 ** this.#t);
      const vHat = this.v[i] / (1 - beta2 ** this.#t);
      this.w[i] -= (lr * mHat) / (Math.sqrt(vHat) + this.o.eps);
    }
  }
}

function largestGap(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i])));
}

const backends: [name: string, backend: Backend][] = [
  ["kernel", createCpu()],
  ["composed", createCpu({ composed: true })],
];
// eps is large enough to matter beside the smallest gradients.
const options = { lr: 0.02, betas: [0.8, 0.95], eps: 1e-3, weightDecay: 0.3 } as const;

for (const [name, backend] of backends) {
  for (const [dtype, tolerance] of [
    ["f32", 2e-6],
    ["f64", 1e-13],
  ] as const) {
    test(`AdamW, ${name}, ${dtype}: twelve steps with a changing learning rate are PyTorch's`, async (t) => {
      const start = normals(1, 40);
      const w = parameter(backend, start, dtype);
      const optimizer = new AdamW(new Map([["w", w]]), options);
      const reference = new Reference([...start], options);
      for (let step = 0; step < 12; step++) {
        const grad = normals(100 + step, 40).map((x) => x * 10 ** ((step % 4) - 3));
        setGrad(w, grad);
        const lr = step % 2 === 0 ? undefined : 0.005 * step;
        optimizer.step({ lr });
        reference.step(grad, lr);
      }
      const gap = largestGap(await w.data(), reference.w);
      t.true(gap < tolerance, `largest gap ${gap}`);
      const { step, tensors } = optimizer.state();
      t.is(step, 12);
      t.deepEqual([...tensors.keys()], ["w.exp_avg", "w.exp_avg_sq"]);
      t.true(largestGap(await tensors.get("w.exp_avg")!.data(), reference.m) < tolerance);
      t.true(largestGap(await tensors.get("w.exp_avg_sq")!.data(), reference.v) < tolerance);
    });
  }

  for (const dtype of ["bf16", "f16"] as const) {
    test(`AdamW, ${name}, ${dtype}: the f32 master collects updates too small for the parameter`, async (t) => {
      const w = parameter(backend, [1, -1, 0.5], dtype);
      const optimizer = new AdamW(new Map([["w", w]]), { lr: 1e-4, weightDecay: 0 });
      for (let step = 0; step < 50; step++) {
        setGrad(w, [1, 1, -1]);
        optimizer.step();
      }
      const master = optimizer.state().tensors.get("w.master")!;
      t.is(master.dtype, "f32");
      // A constant gradient moves a weight by lr a step. A bf16 unit below 1 is 0.0039: alone it would never move.
      t.true(largestGap(await master.data(), [0.995, -1.005, 0.505]) < 1e-5);
      t.deepEqual(await w.data(), await master.to(dtype).data());
      t.notDeepEqual(await w.data(), Float32Array.from([1, -1, 0.5]));
    });
  }

  test(`AdamW, ${name}: gradScale scales the gradient, not the step`, async (t) => {
    const [a, b] = [0, 1].map(() => parameter(backend, [1, 2, 3]));
    const [first, second] = [a, b].map((w) => new AdamW(new Map([["w", w]]), options));
    for (const grad of [
      [1, -2, 3],
      [0.5, 0, 1],
    ]) {
      setGrad(a, grad);
      setGrad(
        b,
        grad.map((x) => 4 * x),
      );
      first.step();
      second.step({ gradScale: 0.25 });
    }
    t.true(largestGap(await a.data(), await b.data()) < 1e-7);
  });

  test(`AdamW, ${name}: a tied parameter is stepped once, one without gradient or not required not at all`, async (t) => {
    const tied = parameter(backend, [1, 1]);
    const idle = parameter(backend, [2]);
    const frozen = tensor([3], { backend });
    const set = new Map([
      ["embed", tied],
      ["idle", idle],
      ["frozen", frozen],
      ["head", tied],
    ]);
    const optimizer = new AdamW(set, { lr: 0.1, weightDecay: 0 });
    setGrad(tied, [1, -1]);
    optimizer.step();
    t.true(largestGap(await tied.data(), [0.9, 1.1]) < 1e-6);
    t.deepEqual([...(await idle.data())], [2]);
    t.deepEqual([...(await frozen.data())], [3]);
    t.deepEqual(
      [...optimizer.state().tensors.keys()],
      ["embed.exp_avg", "embed.exp_avg_sq", "idle.exp_avg", "idle.exp_avg_sq"],
    );
  });

  test(`AdamW, ${name}: saved and loaded, it goes on with identical bits`, async (t) => {
    for (const dtype of ["f32", "bf16"] as const) {
      const make = () => {
        const set = new Map([["w", parameter(backend, normals(2, 20), dtype)]]);
        return { w: set.get("w")!, optimizer: new AdamW(set, options) };
      };
      const [straight, before, after] = [make(), make(), make()];
      const run = ({ w, optimizer }: ReturnType<typeof make>, from: number, to: number) => {
        for (let step = from; step < to; step++) {
          setGrad(w, normals(50 + step, 20));
          optimizer.step();
        }
      };
      run(straight, 0, 6);
      run(before, 0, 3);
      after.w.assign(before.w);
      after.optimizer.load(before.optimizer.state());
      run(after, 3, 6);
      t.deepEqual(await after.w.data(), await straight.w.data());
      t.is(after.optimizer.state().step, 6);
    }
  });

  test(`AdamW, ${name}: an update after a forward makes its backward an error`, (t) => {
    const w = parameter(backend, [1, 2]);
    const optimizer = new AdamW(new Map([["w", w]]));
    const loss = w.square().sum();
    setGrad(w, [1, 1]);
    optimizer.step();
    t.throws(() => loss.backward(), { message: /square.*overwritten/ });
  });

  test(`AdamW, ${name}: steps inside an arena leave state outside it and nothing else behind`, async (t) => {
    const device = createCpu({ composed: name === "composed", poison: true });
    const w = parameter(device, normals(3, 100), "bf16");
    const optimizer = arena(() => new AdamW(new Map([["w", w]]), options));
    const bytes: number[] = [];
    for (let step = 0; step < 10; step++) {
      arena(() => {
        w.mul(w).sum().backward();
        optimizer.step();
        optimizer.zeroGrad();
      });
      bytes.push(device.memory().bytes);
    }
    t.is(new Set(bytes).size, 1);
    t.is(w.grad, undefined);
    t.true((await w.data()).every(Number.isFinite));
    optimizer.dispose();
    w.dispose();
    t.is(device.memory().bytes, 0);
  });
}

test("AdamW refuses a step without gradients and parameter sets it would get wrong", (t) => {
  const backend = createCpu();
  const w = parameter(backend, [1, 2, 3, 4]);
  t.throws(() => new AdamW(new Map([["w", w]])).step(), { message: /run backward/ });
  const twin = new Tensor(w.storage, w.shape);
  twin.requiresGrad = true;
  t.throws(
    () =>
      trainable(
        new Map([
          ["a", w],
          ["b", twin],
        ]),
      ),
    { message: /a and b share storage/ },
  );
  const view = noGrad(() => w.slice(0, 0, 2));
  view.requiresGrad = true;
  t.throws(() => trainable(new Map([["half", view]])), { message: /half \[2\] is a view/ });
});

test("a state that is not this model's is refused whole", async (t) => {
  const backend = createCpu();
  const optimizer = new AdamW(new Map([["w", parameter(backend, [1, 2])]]));
  const good = optimizer.state();
  const changed = (name: string, value?: Tensor): OptimizerState => {
    const tensors = new Map(good.tensors);
    if (value) tensors.set(name, value);
    else tensors.delete(name);
    return { step: 7, tensors };
  };
  const bad: [state: OptimizerState, message: RegExp][] = [
    [changed("w.exp_avg_sq"), /w\.exp_avg_sq is missing; the model needs f32 \[2\]/],
    [changed("w.exp_avg", tensor([1, 2, 3], { backend })), /w\.exp_avg is f32 \[3\]/],
    [changed("w.exp_avg", tensor([1, 2], { backend, dtype: "bf16" })), /w\.exp_avg is bf16 \[2\]/],
    [changed("x.exp_avg", tensor([1, 2], { backend })), /x\.exp_avg, which the model lacks/],
  ];
  for (const [state, message] of bad) t.throws(() => optimizer.load(state), { instanceOf: InputError, message });
  t.is(optimizer.state().step, 0);
});

test("gradNorm is the L2 norm over distinct parameters; clipScale bounds it as PyTorch does", async (t) => {
  const backend = createCpu();
  const [a, b] = [parameter(backend, [0, 0]), parameter(backend, [0])];
  const set = new Map([
    ["a", a],
    ["b", b],
    ["tied", a],
    ["idle", parameter(backend, [5])],
  ]);
  setGrad(a, [3, 4]);
  setGrad(b, [12]);
  const before = backend.memory().bytes;
  t.is(await gradNorm(set), 13);
  t.is(backend.memory().bytes, before);
  t.is(clipScale(13, 20), 1);
  t.is(clipScale(13, 1), 1 / (13 + 1e-6));
  t.is(clipScale(0, 1), 1);
  t.throws(() => clipScale(Number.NaN, 1), { message: /norm is NaN; skip/ });
  setGrad(b, [Number.POSITIVE_INFINITY]);
  t.is(await gradNorm(set), Number.POSITIVE_INFINITY);
});
