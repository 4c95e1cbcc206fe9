/*
 * Products of up to 64 rows with what surrounds them in a layer. On Hopper kernels/fewRowsHopper.cu computes those of up to 8 rows, and
 * kernels/severalRowsHopper.cu the others; the composed form over many rows, cuBLASLt's, is what they are compared with, bit by bit.
 */
import {
  Arena,
  linear,
  normSwiglu,
  qkvToCache,
  type Rotation,
  type Tensor,
  tensor,
  zeros,
} from "../../../../lib/index.js";
import { normSwigluComposed } from "../../../../lib/ops/normSwiglu.js";
import { qkvToCacheComposed } from "../../../../lib/ops/qkvToCache.js";
import { sizeOf } from "../../../../lib/shape.js";
import { normals, values } from "../../support.js";
import { cudaTest, firstDifference, noiseMaker, openCuda } from "./support.js";

const rowCounts = [1, 3, 8, 9, 16, 17, 33, 64];
/** Rows that cuBLASLt multiplies. */
const MANY = 72;

cudaTest(
  "linear: a few rows have the bits of many, also where tiles, boxes and stages do not come out even",
  async (t) => {
    const make = await noiseMaker(7);
    for (const [outputs, width] of [
      [256, 256],
      [264, 320],
      [1000, 448],
      [4248, 1600],
      [6344, 576],
      [25_000, 1088],
      [5120, 8192],
    ]) {
      using arena = new Arena();
      const [x, w, bias, residual] = arena.run(() => [
        make(1, [MANY, width]),
        make(2, [outputs, width], 0.05),
        make(3, [outputs]),
        make(4, [MANY, outputs]),
      ]);
      const product = (rows: number, terms: "bias" | "residual" | undefined) =>
        values(
          arena.run(() =>
            linear(x.slice(0, 0, rows), w, {
              bias: terms === "bias" ? bias : undefined,
              residual: terms === "residual" ? residual.slice(0, 0, rows) : undefined,
            }),
          ),
        );
      for (const terms of [undefined, "bias", "residual"] as const) {
        const whole = await product(MANY, terms);
        for (const rows of rowCounts) {
          const few = await product(rows, terms);
          t.is(firstDifference(few, whole), -1, `${rows} of ${MANY} rows, ${outputs} × ${width}, ${terms}`);
        }
      }
    }
  },
);

cudaTest("normSwiglu: a few rows have the bits of the composed form, widths of one kernel in turns", async (t) => {
  const make = await noiseMaker(7);
  for (const [half, width] of [
    [256, 1792],
    [256, 1600],
    [256, 1792],
    [136, 256],
    [1400, 320],
    [4864, 896],
    [12_288, 4096],
    [3000, 5120],
  ]) {
    using arena = new Arena();
    const [x, norm, weight] = arena.run(() => [
      make(1, [MANY, width]),
      make(2, [width]),
      make(3, [2 * half, width], 0.05),
    ]);
    const whole = await values(arena.run(() => normSwigluComposed(x, norm, 1e-6, weight)));
    for (const rows of rowCounts) {
      const few = await values(arena.run(() => normSwiglu(x.slice(0, 0, rows), norm, 1e-6, weight)));
      t.is(firstDifference(few, whole), -1, `${rows} of ${MANY} rows, ${half} × ${width}`);
    }
  }
});

cudaTest("qkvToCache: a few rows have the bits of the composed form, for heads of all sizes", async (t) => {
  const backend = await openCuda();
  const make = await noiseMaker(7);
  const ints = (data: readonly number[]) => tensor(data, { backend, dtype: "i32" });
  // The eighth position is outside the tables; the third token goes nowhere.
  const [positions, places] = [
    [0, 7, 63, 1, 30, 2, 5, 64, ...Array.from({ length: MANY - 8 }, (_, i) => (i * 37) % 64)],
    [9, 0, -1, 15, 3, 4, 8, 1, ...Array.from({ length: MANY - 8 }, (_, i) => 16 + i)],
  ];
  for (const [heads, kvHeads, headDim, width] of [
    [16, 16, 16, 256],
    [8, 1, 48, 320],
    [14, 2, 64, 896],
    [6, 3, 80, 448],
    [4, 2, 96, 1600],
    [28, 4, 128, 3584],
    [64, 8, 128, 4096],
    [2, 1, 256, 576],
  ]) {
    using arena = new Arena();
    const rotation: Rotation = { heads, kvHeads, headDim, theta: 1e6, maxPositions: 64 };
    const outputs = (heads + 2 * kvHeads) * headDim;
    const [x, norm, weight, bias] = arena.run(() => [
      make(1, [MANY, width]),
      make(2, [width]),
      make(3, [outputs, width], 0.05),
      make(4, [outputs]),
    ]);
    for (const added of [undefined, bias]) {
      const run = (op: typeof qkvToCache, rows: number) =>
        arena.run(() => {
          const cache = zeros([MANY + 16, 2 * kvHeads * headDim], { backend, dtype: "bf16" });
          const placement = { positions: ints(positions.slice(0, rows)), rows: ints(places.slice(0, rows)) };
          const weights = { norm, eps: 1e-6, weight, bias: added };
          const y = op(x.slice(0, 0, rows), weights, placement, rotation, cache);
          // Of the result the queries count.
          return [y.slice(1, 0, heads * headDim), cache];
        });
      const [queries, cache] = await Promise.all(run(qkvToCacheComposed, MANY).map(values));
      for (const rows of rowCounts) {
        const label = `${rows} rows, ${heads}:${kvHeads} heads of ${headDim}, width ${width}`;
        const [own, ownCache] = await Promise.all(run(qkvToCache, rows).map(values));
        t.is(firstDifference(own, queries), -1, `queries of ${label}`);
        // Rows of the cache that later tokens have are empty here.
        const columns = 2 * kvHeads * headDim;
        const expected = [...cache];
        for (const place of places.slice(rows)) expected.fill(0, place * columns, (place + 1) * columns);
        t.is(firstDifference(ownCache, expected), -1, `cache of ${label}`);
      }
    }
  }
});

cudaTest(
  "a few rows have the same bits every time, where each kernel begins before the one before has ended",
  async (t) => {
    const make = await noiseMaker(7);
    using arena = new Arena();
    const [x, norm, gateUp, down, wide, projection] = arena.run(() => [
      make(1, [MANY, 4096]),
      make(2, [4096]),
      make(3, [2 * 12_288, 4096], 0.05),
      make(4, [512, 12_288], 0.05),
      make(5, [MANY, 11_008]),
      make(6, [2048, 11_008], 0.05),
    ]);
    const layer = (rows: number) => {
      const activated = normSwiglu(x.slice(0, 0, rows), norm, 1e-6, gateUp);
      return [activated, linear(activated, down), linear(wide.slice(0, 0, rows), projection)];
    };
    const many = arena.run(() => layer(MANY));
    for (const [rows, count] of [
      [8, 50],
      [16, 20],
      [64, 8],
    ]) {
      const times = arena.run(() => Array.from({ length: count }, () => layer(rows)));
      for (const [i, what] of ["normSwiglu", "its projection", "linear"].entries()) {
        const whole = await values(many[i]);
        const first = await values(times[0][i]);
        // How often, and where first, a result differs from those of many rows, and from the first result.
        const wrong: number[][] = [];
        const unsteady: number[][] = [];
        for (const [time, results] of times.entries()) {
          const few = await values(results[i]);
          for (const [found, expected] of [
            [wrong, whole],
            [unsteady, first],
          ] as const) {
            const at = firstDifference(few, expected);
            if (at >= 0) found.push([time, at]);
          }
        }
        t.deepEqual(wrong, [], `${what}: ${rows} of ${MANY} rows`);
        t.deepEqual(unsteady, [], `${what}: ${count} times ${rows} rows`);
      }
    }
  },
);

cudaTest("a product whose weights are the result of the kernel before waits for them", async (t) => {
  const make = await noiseMaker(7);
  using arena = new Arena();
  const [x, w, z] = arena.run(() => [make(1, [64, 4096]), make(2, [4096, 4096], 0.05), make(3, [8, 1024])]);
  // [64, 4096] of the first product are the weights [256, 1024] of the second.
  const weights = (rows: Tensor) => linear(rows, w).reshape([256, 1024]);
  const ready = arena.run(() => weights(x));
  await values(ready);
  const expected = await values(arena.run(() => linear(z, ready)));
  const results = arena.run(() => Array.from({ length: 50 }, () => linear(z, weights(x))));
  for (const [i, result] of results.entries()) {
    t.is(firstDifference(await values(result), expected), -1, `time ${i}`);
  }
  t.true(expected.some((value) => value !== 0));
});

cudaTest(
  "qkvToCache: many rows have the bits of the composed form, in all types and with norms of heads",
  async (t) => {
    const backend = await openCuda();
    for (const dtype of ["bf16", "f16", "f32"] as const) {
      for (const [tokens, heads, kvHeads, headDim] of [
        [9, 14, 2, 64],
        [64, 16, 2, 128],
        [300, 4, 4, 6],
      ]) {
        using arena = new Arena();
        const [width, outputs, columns] = [96, (heads + 2 * kvHeads) * headDim, 2 * kvHeads * headDim];
        const rotation: Rotation = { heads, kvHeads, headDim, theta: 1e6, maxPositions: 512 };
        const make = (seed: number, ...shape: number[]) =>
          tensor(normals(seed, sizeOf(shape)), { backend, dtype, shape });
        const ints = (value: (i: number) => number) =>
          tensor(
            Array.from({ length: tokens }, (_, i) => value(i)),
            { backend, dtype: "i32" },
          );
        for (const hasNorms of [false, true]) {
          const run = (op: typeof qkvToCache) =>
            arena.run(() => {
              const headNorms = hasNorms ? { q: make(5, headDim), k: make(6, headDim) } : undefined;
              const weights = { norm: make(2, width), eps: 1e-6, weight: make(3, outputs, width), headNorms };
              const cache = make(4, tokens + 5, columns);
              // Rows in another order, none for every fourth token; the last position is outside the tables.
              const rows = ints((i) => (i % 4 === 3 ? -1 : tokens + 4 - i));
              const placement = { positions: ints((i) => (i === tokens - 1 ? 512 : (i * 37) % 512)), rows };
              const y = op(make(1, tokens, width), weights, placement, rotation, cache);
              return [y.slice(1, 0, heads * headDim), cache];
            });
          const [actual, expected] = [run(qkvToCache), run(qkvToCacheComposed)];
          for (const [i, what] of ["queries", "cache"].entries()) {
            const [a, b] = [await values(actual[i]), await values(expected[i])];
            t.is(
              firstDifference(a, b),
              -1,
              `${what} of ${tokens} rows, ${heads}:${kvHeads} heads of ${headDim}, ${dtype}`,
            );
          }
        }
      }
    }
  },
);
