import { setTimeout as sleep } from "node:timers/promises";
import test from "ava";
import {
  AdamW,
  Arena,
  arena,
  checkpoint,
  createCpu,
  keep,
  linear,
  noGrad,
  outsideArenas,
  rmsNorm,
  type Tensor,
  tensor,
} from "../../lib/index.js";
import { normals, values } from "./support.js";

/** A device of its own for each test: freed memory is NaN, and `memory()` counts nothing else. */
function device() {
  const backend = createCpu({ poison: true });
  const of = (numbers: number[]) => tensor(numbers, { backend });
  const parameter = (numbers: ArrayLike<number>, shape: number[] = [numbers.length]) => {
    const x = tensor(numbers, { backend, shape });
    x.requiresGrad = true;
    return x;
  };
  return { backend, of, parameter, buffers: () => backend.memory().buffers };
}

test("an arena frees what was allocated inside, at its end", (t) => {
  const { of, buffers } = device();
  let inside!: Tensor;
  arena(() => {
    inside = of([1]).add(2);
    t.true(buffers() > 0);
  });
  t.is(buffers(), 0);
  t.throws(() => inside.neg(), { message: /neg: a tensor of shape \[1\] was freed; return it from its arena or keep/ });
});

test("what it returns lives on: a tensor, or tensors in arrays, objects, maps and sets", async (t) => {
  const { of, buffers } = device();
  const returned = arena(() => ({
    a: of([1]),
    list: [of([2]), [of([3])]],
    map: new Map([["x", of([4])]]),
    set: new Set([of([5])]),
    other: "text",
    none: undefined,
    dropped: of([9]).size,
  }));
  t.is(buffers(), 5);
  const [four, five] = [returned.map.get("x")!, [...returned.set][0]];
  const all = [returned.a, returned.list[0] as Tensor, (returned.list[1] as Tensor[])[0], four, five];
  t.deepEqual((await Promise.all(all.map(values))).flat(), [1, 2, 3, 4, 5]);
});

test("a returned view keeps the storage that it shares", async (t) => {
  const { of } = device();
  const view = arena(() => of([1, 2, 3, 4]).slice(0, 1, 3).reshape([2, 1]));
  t.deepEqual(await values(view), [2, 3]);
});

test("nested arenas: the inner one's result passes to the outer, which frees it", async (t) => {
  const { of, buffers } = device();
  const result = arena(() => {
    const middle = arena(() => of([1]).add(1).mul(3));
    t.is(buffers(), 1);
    return middle.add(1);
  });
  t.is(buffers(), 1);
  t.deepEqual(await values(result), [7]);
});

test("what existed before an arena is not its to free, even when it is returned", async (t) => {
  const { of } = device();
  const before = of([1]);
  t.is(
    arena(() => before),
    before,
  );
  arena(() => before.add(1));
  t.deepEqual(await values(before), [1]);
});

test("keep takes tensors out of every arena; outsideArenas never puts them in", async (t) => {
  const { of, buffers } = device();
  const kept: Tensor[] = [];
  arena(() =>
    arena(() => {
      kept.push(
        keep(of([1])),
        outsideArenas(() => of([2])),
      );
      of([3]);
    }),
  );
  t.is(buffers(), 2);
  t.deepEqual((await Promise.all(kept.map(values))).flat(), [1, 2]);
  for (const tensor of kept) tensor.dispose();
  t.is(buffers(), 0);
});

test("what was saved for backward outlives its arena until backward has run, then goes", async (t) => {
  const { parameter, buffers } = device();
  const w = parameter([1, 2, 3]);
  arena(() => {
    const before = buffers();
    const loss = arena(() => w.exp().square().sum());
    t.true(buffers() > before + 1);
    loss.backward();
    t.is(buffers(), before + 2, "the loss and the gradient");
  });
  t.is(buffers(), 2, "the parameter and its gradient");
  const expected = [1, 2, 3].map((x) => Math.fround(2 * Math.exp(2 * x)));
  for (const [i, value] of (await values(w.grad!)).entries()) t.true(Math.abs(value / expected[i] - 1) < 1e-6);
});

test("without an enclosing arena too, a differentiable result keeps what its backward needs", (t) => {
  const { parameter, buffers } = device();
  const w = parameter([1, 2]);
  const loss = arena(() => w.exp().square().sum());
  loss.backward();
  loss.dispose();
  t.is(buffers(), 2, "the parameter and its gradient");
});

test("backward over a graph whose arena was disposed is an error, not garbage", (t) => {
  const { parameter } = device();
  const w = parameter([1, 2]);
  const task = new Arena();
  const loss = task.run(() => keep(w.exp().square().sum()));
  task.dispose();
  t.throws(() => loss.backward(), { message: /square saved was freed; keep its arena open/ });
});

test("an error inside frees everything and leaves no arena current", (t) => {
  const { of, buffers } = device();
  t.throws(
    () =>
      arena(() => {
        of([1]);
        throw new Error("inside");
      }),
    { message: "inside" },
  );
  t.is(buffers(), 0);
  of([1]);
  t.is(buffers(), 1, "allocated in no arena");
});

test("promises are refused: nothing ambient survives an await", (t) => {
  const { of, buffers } = device();
  for (const [name, refuse] of Object.entries({
    arena: () => arena(async () => of([1])),
    "arena of a new Arena": () => new Arena().run(async () => of([1])),
    noGrad: () => noGrad(async () => 1),
    outsideArenas: () => outsideArenas(async () => 1),
    "arena in checkpoint": () => checkpoint((async (x: Tensor) => x) as never, of([1])),
  })) {
    t.throws(refuse, { message: /returned a promise; do asynchronous work outside, or hold a new Arena/ }, name);
  }
  arena(() => of([1]));
  t.true(buffers() > 0);
});

test("an explicit arena lives across turns, takes nested results, and is disposed once", async (t) => {
  const { of, buffers } = device();
  const task = new Arena();
  const state = task.run(() => of([1]));
  await sleep(1);
  const next = task.run(() => arena(() => state.add(1)));
  t.deepEqual(await values(next), [2]);
  t.is(task.owned.size, 2);
  task.dispose();
  task[Symbol.dispose]();
  t.is(buffers(), 0);
  t.throws(() => task.run(() => 1), { message: /disposed/ });
});

test("an arena inside another arena's run does not touch what the other owns", async (t) => {
  const { of } = device();
  const [outer, inner] = [new Arena(), new Arena()];
  const [a, b] = outer.run(() => [of([1]), inner.run(() => of([2]))]);
  inner.dispose();
  t.deepEqual(await values(a), [1]);
  t.throws(() => b.neg(), { message: /freed/ });
  outer.dispose();
});

test("two interleaved tasks with arenas of their own free nothing of each other's", async (t) => {
  const { of, buffers } = device();
  const log: string[] = [];
  const conversation = async (name: string, start: number) => {
    const task = new Arena();
    let state = task.run(() => of([start]));
    for (let turn = 0; turn < 6; turn++) {
      const before = state;
      state = task.run(() => arena(() => before.add(1).mul(1)));
      log.push(name);
      await sleep(1 + ((turn * 7 + start) % 3));
      t.deepEqual(await values(before), [start + turn], `${name}, turn ${turn}`);
    }
    t.deepEqual(await values(state), [start + 6]);
    task.dispose();
  };
  await Promise.all([conversation("a", 10), conversation("b", 20)]);
  t.true(/ab.*ab|ba.*ba/.test(log.join("")), "they did interleave");
  t.is(buffers(), 0);
});

test("data may be asked for and the tensor freed at once", async (t) => {
  const { of, buffers } = device();
  const reading = arena(() => [of([1, 2]).data()])[0];
  t.is(buffers(), 0);
  t.deepEqual(Array.from(await reading), [1, 2]);
  const item = of([5]);
  const pending = item.item();
  item.assign(of([6]));
  item.dispose();
  t.is(await pending, 5);
});

test("training: bytes after 200 steps equal those after 20, exactly", async (t) => {
  const { backend, parameter } = device();
  const size = 8;
  const w = parameter(normals(1, size * size), [size, size]);
  const scale = parameter(new Float32Array(size).fill(1));
  const optimizer = new AdamW(new Map(Object.entries({ w, scale })), { lr: 1e-3 });
  const bytes: number[] = [];
  let last = Number.NaN;
  for (let step = 1; step <= 200; step++) {
    const reading = arena(() => {
      const x = tensor(normals(step, 5 * size), { backend, shape: [5, size] });
      const layer = (h: Tensor) => arena(() => rmsNorm(linear(h, w).tanh().add(h), scale));
      const loss = checkpoint(layer, layer(layer(x)))
        .square()
        .mean();
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      return [loss.item()];
    })[0];
    last = await reading;
    bytes.push(backend.memory().bytes);
  }
  t.true(Number.isFinite(last));
  t.is(bytes[199], bytes[19]);
  t.is(new Set(bytes.slice(19)).size, 1);
  optimizer.dispose();
  w.dispose();
  scale.dispose();
  t.is(backend.memory().bytes, 0);
});

test("freed memory is NaN where asked for, so that a use after free would show", (t) => {
  const { of } = device();
  const x = of([1, 2]);
  const memory = x.storage.handle as Float32Array;
  x.dispose();
  t.true(memory.every(Number.isNaN));
});

test("memory counts live bytes and their peak; a tensor freed twice counts once", (t) => {
  const { backend, of } = device();
  const [a, b] = [of([1]), of(new Array(1000).fill(1))];
  const { bytes, buffers } = backend.memory();
  t.is(buffers, 2);
  t.true(bytes >= 4004);
  b.dispose();
  b.dispose();
  t.true(backend.memory().bytes < 100);
  t.is(backend.memory().peakBytes, bytes);
  a.dispose();
  t.is(backend.memory().bytes, 0);
});
