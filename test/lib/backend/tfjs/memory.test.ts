import test from "ava";
import { Arena, linear, setRows } from "../../../../lib/index.js";
import { devices, drawn, held } from "./devices.js";

for (const [name, backend] of devices) {
  const make = drawn(backend);
  test.serial(
    `in-place operations, ${name}: they change what they name, in whole storages and in slices, and no copies`,
    async (t) => {
      const before = held();
      using owner = new Arena();
      const values = owner.run(() => {
        const x = make([4, 2], [0, 1, 2, 3, 4, 5, 6, 7]);
        const twin = x.permute([0, 1]);
        const rows = x.slice(0, 1, 3);
        rows.assign(make([2, 2], [20, 30, 40, 50]));
        const one = x.add(0);
        backend.accumulate(rows, make([2, 2], [1, 1, 1, 1]));
        const two = x.add(0);
        setRows(x, make([3], [3, -1, 0], "i32"), make([3, 2], [60, 70, -1, -1, 80, 90]));
        const three = x.add(0);
        setRows(x.slice(0, 1, 3), make([1], [1], "i32"), make([1, 2], [8, 9]));
        t.is(x.storage.version, 3);
        return [twin, one, two, three, x];
      });
      t.deepEqual(await Promise.all(values.map(async (x) => Array.from(await x.data()))), [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 20, 30, 40, 50, 6, 7],
        [0, 1, 21, 31, 41, 51, 6, 7],
        [80, 90, 21, 31, 41, 51, 60, 70],
        [80, 90, 21, 31, 8, 9, 60, 70],
      ]);
      owner.dispose();
      t.deepEqual(held(), before);
    },
  );

  test.serial(`download, ${name}: a value asked for is the one of that moment, and a copy`, async (t) => {
    const x = make([3], [1, 2, 3]);
    const [first, product] = [x.data(), x.mul(2)];
    x.assign(make([3], [4, 5, 6]));
    const [second, third] = [x.data(), product.data()];
    for (const tensor of [x, product]) tensor.dispose();
    t.deepEqual(Array.from(await first), [1, 2, 3]);
    t.deepEqual(Array.from(await second), [4, 5, 6]);
    t.deepEqual(Array.from(await third), [2, 4, 6]);

    using y = make([2], [1, 2]);
    (await y.data()).fill(7);
    t.deepEqual(Array.from(await y.data()), [1, 2]);
  });

  test.serial(`upload, ${name}: the source may be overwritten at once`, async (t) => {
    const source = Float32Array.of(1, 2);
    const storage = backend.upload("f32", source);
    const ref = { storage, offset: 0, shape: [2] };
    const doubled = backend.binary("add", ref, ref, [2]);
    source.fill(9);
    t.deepEqual(await backend.download(ref), Float32Array.of(1, 2));
    t.deepEqual(await backend.download({ ...ref, storage: doubled }), Float32Array.of(2, 4));
    for (const used of [storage, doubled]) backend.free(used);
  });

  test.serial(`memory, ${name}: exactly the bytes of live storages, wherever they lie`, (t) => {
    const { bytes, buffers } = backend.memory();
    const grown = () => [backend.memory().bytes - bytes, backend.memory().buffers - buffers];
    const x = make([10]);
    t.deepEqual(grown(), [40, 1]);
    const y = x.mul(x);
    t.deepEqual(grown(), [80, 2]);
    const mask = y.greater(x);
    t.deepEqual(grown(), [90, 3]);
    const argmax = y.argmax(0);
    t.deepEqual(grown(), [94, 4]);
    y.assign(x);
    t.deepEqual(grown(), [94, 4]);
    t.true(backend.memory().peakBytes >= bytes + 94);
    for (const tensor of [x, y, mask, argmax]) tensor.dispose();
    t.deepEqual(grown(), [0, 0]);
  });

  test.serial(`errors, ${name}: a failed operation leaves nothing behind`, (t) => {
    using owner = new Arena();
    const [x, index] = owner.run(() => [make([2, 3]).mul(2), make([2], [0, 5], "i32")]);
    const before = held();
    t.throws(() => owner.run(() => x.gatherRows(index)));
    t.deepEqual(held(), before);
  });
}

test.serial(
  "a weight's transposed copy is kept and counted, renewed after a write, and freed with the weight",
  async (t) => {
    const [, backend] = devices[0];
    const make = drawn(backend);
    const before = held();
    const { bytes } = backend.memory();
    const [x, weight] = [make([1, 2], [1, 10]), make([3, 2], [1, 2, 3, 4, 5, 6])];
    const apply = async (w = weight) => {
      using y = linear(x, w);
      return Array.from(await y.data());
    };
    t.deepEqual(await apply(), [21, 43, 65]);
    const alone = 4 * (2 + 6);
    t.is(backend.memory().bytes - bytes, alone + 4 * 6);
    t.deepEqual(await apply(), [21, 43, 65]);
    t.deepEqual(await apply(weight.slice(0, 1)), [43, 65]);
    t.is(backend.memory().bytes - bytes, alone + 4 * 6);

    const [update, row] = [make([3, 2], [1, 1, 1, 1, 1, 1]), make([1, 2], [0, 5])];
    weight.assign(update);
    t.deepEqual(await apply(), [11, 11, 11]);
    backend.accumulate(weight, update);
    t.deepEqual(await apply(), [22, 22, 22]);
    weight.slice(0, 1, 2).assign(row);
    t.deepEqual(await apply(), [22, 50, 22]);
    const [m, v] = [update.sub(update), update.sub(update)];
    const step = { lr: 1, beta1: 0, beta2: 0, eps: 0, weightDecay: 0, step: 1, gradScale: 1 };
    backend.fused.adamw!(weight, weight, update, m, v, step);
    t.deepEqual(await apply(), [11, 39, 11]);
    for (const moment of [m, v]) t.deepEqual(Array.from(await moment.data()), [1, 1, 1, 1, 1, 1]);

    for (const tensor of [x, weight, update, row, m, v]) tensor.dispose();
    t.deepEqual(held(), before);
  },
);
