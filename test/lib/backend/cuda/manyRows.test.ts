/*
 * The first half of an MLP over more than 64 rows. On Hopper kernels/manyRowsHopper.cu computes it where it is faster; norm, cuBLASLt's
 * product and swiglu one after the other are what it is compared with, bit by bit.
 */
import type { ExecutionContext } from "ava";
import { Arena, normSwiglu, type Tensor, tensor } from "../../../../lib/index.js";
import { normSwigluComposed } from "../../../../lib/ops/normSwiglu.js";
import { normals } from "../../support.js";
import { cudaTest, noiseMaker, openCuda, poison } from "./support.js";

const noise = normals(11, 1_048_573);

/** Bits of bf16. */
const bits = async (x: Tensor) => (await x.backend.download(x)) as Uint16Array;

/** How many values differ, and where first. */
function sameBits(
  t: ExecutionContext,
  actual: Uint16Array,
  expected: Uint16Array,
  columns: number,
  label: string,
): void {
  const [a, b] = [actual, expected].map((x) => Buffer.from(x.buffer, x.byteOffset, x.byteLength));
  if (a.equals(b)) {
    t.pass();
    return;
  }
  const wrong = [...actual.keys()].filter((i) => actual[i] !== expected[i]);
  const [row, column] = [Math.floor(wrong[0] / columns), wrong[0] % columns];
  t.fail(`${label}: ${wrong.length} of ${actual.length} differ, the first in row ${row}, column ${column}`);
}

const shapes = {
  "Qwen2.5 0.5B": [4864, 896],
  "Qwen2.5 1.5B": [8960, 1536],
  "Qwen2.5 3B": [11_008, 2048],
  "Qwen2.5 7B": [18_944, 3584],
  "fewer columns than a tile": [136, 256],
  "columns that do not come out even": [1000, 320],
} as const;

for (const [name, [half, width]] of Object.entries(shapes)) {
  cudaTest(`normSwiglu, ${name}: many rows have the bits of the composed form`, async (t) => {
    const backend = await openCuda();
    const make = await noiseMaker(11);
    using whole = new Arena();
    // Gates from those that vanish to those that are their own silu, and sums that overflow.
    const [all, norm, ...weights] = whole.run(() => [
      make(1, [2500, width]),
      make(2, [width]),
      make(3, [2 * half, width], 0.05),
      make(3, [2 * half, width], 1),
    ]);
    for (const rows of [65, 128, 129, 200, 256, 257, 512, 1000, 1024, 2500]) {
      using arena = new Arena();
      const [x, weight] = [all.slice(0, 0, rows), weights[rows % 2]];
      const expected = await bits(arena.run(() => normSwigluComposed(x, norm, 1e-6, weight)));
      poison(backend);
      sameBits(t, await bits(arena.run(() => normSwiglu(x, norm, 1e-6, weight))), expected, half, `${rows} rows`);
    }
  });
}

cudaTest("normSwiglu: many rows have the bits of the composed form for every gate there is", async (t) => {
  const backend = await openCuda();
  const [rows, half, width] = [128, 512, 256];
  // Each row has one element, whose square's mean is 1/256: the norm makes it 16, its weight 1.
  const bfloat = (bits: number) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0];
  const one = Float32Array.from({ length: rows * width }, (_, i) => (i % width === Math.floor(i / width) ? 1 : 0));
  for (const scale of [1, -0.75, 2 ** 100]) {
    using arena = new Arena();
    const weights = new Float32Array(2 * half * width);
    for (let row = 0; row < rows; row++) {
      for (let j = 0; j < half; j++) {
        const gate = bfloat(row * half + j);
        weights[j * width + row] = Number.isFinite(gate) ? gate : 0;
        weights[(half + j) * width + row] = scale * (1 + (j % 128) / 128);
      }
    }
    const [x, norm, weight] = arena.run(() => [
      tensor(one, { backend, dtype: "bf16", shape: [rows, width] }),
      tensor(new Float32Array(width).fill(1 / 16), { backend, dtype: "bf16" }),
      tensor(weights, { backend, dtype: "bf16", shape: [2 * half, width] }),
    ]);
    const expected = await bits(arena.run(() => normSwigluComposed(x, norm, 0, weight)));
    t.true(new Set(expected).size > 10_000, "the results differ from each other");
    sameBits(t, await bits(arena.run(() => normSwiglu(x, norm, 0, weight))), expected, half, `times ${scale}`);
  }
});

cudaTest("normSwiglu: infinities and NaN among many rows stay in theirs", async (t) => {
  const backend = await openCuda();
  const make = await noiseMaker(11);
  const [rows, half, width] = [256, 1000, 320];
  using arena = new Arena();
  const data = Float32Array.from({ length: rows * width }, (_, i) => noise[i]);
  for (const [row, value] of [
    [7, 0],
    [70, Number.POSITIVE_INFINITY],
    [130, Number.NaN],
    [255, 3e38],
  ]) {
    data.fill(value, row * width, (row + 1) * width);
  }
  const [x, norm, weight] = arena.run(() => [
    tensor(data, { backend, dtype: "bf16", shape: [rows, width] }),
    make(2, [width]),
    make(3, [2 * half, width], 4),
  ]);
  const expected = await bits(arena.run(() => normSwigluComposed(x, norm, 1e-6, weight)));
  sameBits(t, await bits(arena.run(() => normSwiglu(x, norm, 1e-6, weight))), expected, half, "all rows");
});

cudaTest(
  "normSwiglu: many rows have the same bits every time, where each kernel begins before the one before has ended",
  async (t) => {
    const make = await noiseMaker(11);
    const [half, width] = [4864, 896];
    for (const rows of [65, 256, 1000]) {
      using arena = new Arena();
      const [x, norm, weight] = arena.run(() => [
        make(1, [rows, width]),
        make(2, [width]),
        make(3, [2 * half, width], 0.05),
      ]);
      const expected = await bits(arena.run(() => normSwigluComposed(x, norm, 1e-6, weight)));
      const results = arena.run(() => Array.from({ length: 20 }, () => normSwiglu(x, norm, 1e-6, weight)));
      for (const [i, result] of results.entries())
        sameBits(t, await bits(result), expected, half, `${rows} rows, time ${i}`);
    }
  },
);

cudaTest("normSwiglu: recorded, many rows have the bits of the composed form", async (t) => {
  const backend = await openCuda();
  const make = await noiseMaker(11);
  const [rows, half, width] = [256, 1000, 320];
  using arena = new Arena();
  const [x, norm, weight] = arena.run(() => [
    make(1, [rows, width]),
    make(2, [width]),
    make(3, [2 * half, width], 0.05),
  ]);
  const run = () => normSwiglu(x, norm, 1e-6, weight);
  const expected = await bits(arena.run(() => normSwigluComposed(x, norm, 1e-6, weight)));
  arena.run(run);
  let y: Tensor | undefined;
  const recording = backend.fused.record!(() => {
    y = arena.run(run);
  });
  recording.launch();
  recording.launch();
  sameBits(t, await bits(y!), expected, half, "recorded");
  recording.dispose();
});
