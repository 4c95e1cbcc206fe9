import test from "ava";
import { loadEngine } from "../../../../lib/backend/tfjs/engines.js";
import { createTfjs, findTfjsEngines } from "../../../../lib/backend/tfjs/index.js";
import { arena, InputError, openDevice, tensor, zeros } from "../../../../lib/index.js";

test.serial("two engines can be opened at once and used in turns", async (t) => {
  const backends = (await Promise.all([createTfjs("wasm"), createTfjs("cpu")])).toReversed();
  const inputs = backends.map((backend) => tensor([1, 2, 3, 4], { backend, shape: [2, 2] }));
  for (let turn = 0; turn < 2; turn++) {
    for (const x of inputs) {
      using y = arena(() => x.matmul(x).add(x.exp().log()));
      t.deepEqual(Array.from(await y.data(), Math.round), [8, 12, 18, 26]);
    }
  }
});

test.serial("engines open by name, and say what they are", async (t) => {
  const wasm = await openDevice("tfjs:wasm");
  t.is(wasm.name, "tfjs:wasm");
  t.regex(wasm.description, /tfjs-backend-wasm \d+\.\d+\.\d+, SIMD/);
  t.deepEqual([...wasm.dtypes].sort(), ["bool", "f32", "i32"]);
  t.throws(() => zeros([1], { backend: wasm, dtype: "bf16" }), { message: /tfjs:wasm does not hold bf16/ });
  t.is((await createTfjs("cpu")).name, "tfjs:cpu");
  await t.throwsAsync(createTfjs("webgl"), {
    instanceOf: InputError,
    message: /no engine 'webgl'; use node, wasm, cpu/,
  });
});

test.serial("wasm says when its memory is full, and what it held stays as it was", async (t) => {
  const backend = await createTfjs("wasm");
  const { tf } = await loadEngine("wasm");
  const x = tensor([1, 2], { backend }).exp();
  const [before, tensors] = [await x.data(), tf.memory().numTensors];
  for (const size of [2 ** 30 - 1, 2 ** 30 + 1]) {
    t.throws(() => tf.fill([size], 0), { message: /wasm is out of memory/ });
  }
  t.is(tf.memory().numTensors, tensors);
  t.deepEqual(await x.data(), before);
});

test.serial("without a name the best engine that is there opens; a missing one says what installs it", async (t) => {
  const reports = await findTfjsEngines();
  t.deepEqual(
    reports.map(({ name }) => name),
    ["node", "wasm", "cpu"],
  );
  t.is((await createTfjs()).name, `tfjs:${reports.find(({ available }) => available)!.name}`);
  for (const { name, detail } of reports.filter(({ available }) => !available)) {
    t.is(name, "node");
    t.regex(detail, /tfjs-node-gpu.*tfjs-node.*npm install @tensorflow\/tfjs-node \(or/);
    await t.throwsAsync(createTfjs(name), { instanceOf: InputError, message: `tfjs:${name}: ${detail}` });
  }
});
