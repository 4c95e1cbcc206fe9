/* What decoding needs of the operations that a backend may have in one kernel for a few rows: the bits of the single steps. */
import test from "ava";
import {
  backward,
  createCpu,
  linear,
  normSwiglu,
  qkNorm,
  qkvToCache,
  readDrawn,
  rmsNorm,
  rope,
  type Shape,
  swiglu,
  type Tensor,
  tensor,
} from "../../../lib/index.js";
import { sizeOf } from "../../../lib/shape.js";
import { backends, normals, values } from "../support.js";

const EPS = 1e-5;
const rotation = { heads: 4, kvHeads: 2, headDim: 6, theta: 1e4 };
const WIDTH = 48;
const CACHE_WIDTH = 24;

for (const [name, backend] of backends) {
  const make = (seed: number, ...shape: Shape) => tensor(normals(seed, sizeOf(shape)), { backend, shape });
  const ints = (...data: number[]) => tensor(data, { backend, dtype: "i32" });

  test(`normSwiglu, ${name}: norm, projection and swiglu one after the other`, async (t) => {
    const [x, norm, weight] = [make(1, 3, 10), make(2, 10), make(3, 14, 10)];
    const y = normSwiglu(x, norm, EPS, weight);
    t.deepEqual(y.shape, [3, 7]);
    t.deepEqual(await values(y), await values(swiglu(linear(rmsNorm(x, norm, EPS), weight))));
  });

  test(`normSwiglu, ${name}: where a gradient is asked for, that of norm, projection and swiglu`, async (t) => {
    const gradients = async (y: (of: readonly Tensor[]) => Tensor) => {
      const leaves = [make(1, 3, 10), make(2, 10), make(3, 14, 10)];
      for (const leaf of leaves) leaf.requiresGrad = true;
      backward([y(leaves)], [make(4, 3, 7)]);
      return Promise.all(leaves.map(({ grad }) => values(grad!)));
    };
    const expected = await gradients(([x, norm, weight]) => swiglu(linear(rmsNorm(x, norm, EPS), weight)));
    t.true(expected.every((gradient) => gradient.some((value) => value !== 0)));
    t.deepEqual(await gradients(([x, norm, weight]) => normSwiglu(x, norm, EPS, weight)), expected);
  });

  for (const [what, hasBias, hasNorms] of [
    ["bare", false, false],
    ["with biases, as in Qwen2", true, false],
    ["with norms of heads, as in Qwen3", false, true],
  ] as const) {
    test(`qkvToCache, ${name}, ${what}: queries come back, keys and values go to their rows, nowhere for −1`, async (t) => {
      const [x, norm, weight, past] = [make(1, 3, 10), make(2, 10), make(3, WIDTH, 10), make(4, 5, CACHE_WIDTH)];
      const bias = hasBias ? make(5, WIDTH) : undefined;
      const headNorms = hasNorms ? { q: make(6, 6), k: make(7, 6) } : undefined;
      const cache = past.add(0);
      const placement = { positions: ints(9, 0, 4), rows: ints(3, -1, 0) };
      const version = cache.storage.version;
      const y = qkvToCache(x, { norm, eps: EPS, weight, bias, headNorms }, placement, rotation, cache);

      let steps = linear(rmsNorm(x, norm, EPS), weight, { bias });
      if (headNorms) steps = qkNorm(steps, headNorms.q, headNorms.k, rotation, EPS);
      steps = rope(steps, placement.positions, rotation);
      t.deepEqual(y.shape, [3, WIDTH]);
      t.deepEqual(await values(y.slice(1, 0, 24)), await values(steps.slice(1, 0, 24)));
      const [kept, made, before] = await Promise.all([cache, steps.slice(1, 24, WIDTH), past].map(values));
      const row = (of: readonly number[], i: number) => of.slice(i * CACHE_WIDTH, (i + 1) * CACHE_WIDTH);
      t.deepEqual(row(kept, 3), row(made, 0));
      t.deepEqual(row(kept, 0), row(made, 2));
      for (const i of [1, 2, 4]) t.deepEqual(row(kept, i), row(before, i));
      t.true(cache.storage.version > version, "whoever keeps something of the cache can tell that it changed");

      const other = past.add(0);
      const all = qkvToCache(x, { norm, eps: EPS, weight, bias, headNorms }, placement, rotation, other, true);
      t.deepEqual(await values(all), await values(steps), "keepsAll");
      t.deepEqual(await values(other), kept, "keepsAll");
    });
  }
}

test("a backend's own kernel is asked first, and may leave a shape to the composed form", async (t) => {
  const backend = createCpu();
  const make = (seed: number, ...shape: Shape) => tensor(normals(seed, sizeOf(shape)), { backend, shape });
  const [x, norm, weight] = [make(1, 3, 10), make(2, 10), make(3, 14, 10)];
  const rows: number[] = [];
  backend.fused.normSwiglu = (given) => {
    rows.push(given.shape[0]);
    return given.shape[0] > 1 ? undefined : backend.upload("f32", new Float32Array(7).fill(5));
  };
  t.deepEqual(await values(normSwiglu(x.slice(0, 0, 1), norm, EPS, weight)), new Array(7).fill(5));
  t.deepEqual(
    await values(normSwiglu(x, norm, EPS, weight)),
    await values(swiglu(linear(rmsNorm(x, norm, EPS), weight))),
  );
  t.deepEqual(rows, [1, 3]);
  weight.requiresGrad = true;
  normSwiglu(x.slice(0, 0, 1), norm, EPS, weight);
  t.deepEqual(rows, [1, 3], "where a gradient is asked for it is not");
});

test("a backend may have the last step of qkvToCache alone: it gets the projection, norms of heads included", async (t) => {
  const backend = createCpu();
  const make = (seed: number, ...shape: Shape) => tensor(normals(seed, sizeOf(shape)), { backend, shape });
  const ints = (...data: number[]) => tensor(data, { backend, dtype: "i32" });
  const [x, norm, weight, cache] = [make(1, 3, 10), make(2, 10), make(3, WIDTH, 10), make(4, 5, CACHE_WIDTH)];
  const headNorms = { q: make(6, 6), k: make(7, 6) };
  const placement = { positions: ints(9, 0, 4), rows: ints(3, -1, 0) };
  backend.fused.ropeToCache = (given) => backend.unary("neg", given);
  const version = cache.storage.version;
  const y = qkvToCache(x, { norm, eps: EPS, weight, headNorms }, placement, rotation, cache);
  const projection = qkNorm(linear(rmsNorm(x, norm, EPS), weight), headNorms.q, headNorms.k, rotation, EPS);
  t.deepEqual(await values(y), await values(projection.neg()));
  t.true(cache.storage.version > version);
});

test("readDrawn takes tokens and log-probabilities out of one array", async (t) => {
  const logprobs = Float32Array.of(-0.25, 0, -17.5);
  const drawn = [7, -1, 151_935, ...new Int32Array(logprobs.buffer)];
  const read = await readDrawn(tensor(drawn, { backend: createCpu(), dtype: "i32", shape: [2, 3] }));
  t.deepEqual(read, { ids: Int32Array.of(7, -1, 151_935), logprobs });
});
