/*
 * Products of up to 64 rows with what surrounds them in a layer. On Hopper kernels/fewRowsHopper.cu computes those of up to 8 rows, and
 * kernels/severalRowsHopper.cu the others; the composed form over many rows, cuBLASLt's, is what they are compared with, bit by bit.
 */
import test, { type ExecutionContext } from "ava";
import {
  BLOCK_SHARED,
  type Division,
  divide,
  dividePlain,
  divideQkv,
  divideSwiglu,
  MULTIPROCESSOR_SHARED,
} from "../../../../lib/backend/cuda/fused/fewRowsDivision.js";
import { chunkBytes, DEEP } from "../../../../lib/backend/cuda/fused/pagedAttention.js";
import { boxRows, hopperBytes } from "../../../../lib/backend/cuda/fused/pagedAttentionHopper.js";
import {
  divideSeveral,
  divideSeveralRows,
  type SeveralDivision,
  type SeveralProduct,
} from "../../../../lib/backend/cuda/fused/severalRowsDivision.js";
import { sharedMemoryLimits } from "../../../../lib/backend/cuda/kernels.js";
import {
  Arena,
  linear,
  normSwiglu,
  qkvToCache,
  type Rotation,
  type Shape,
  type Tensor,
  tensor,
  zeros,
} from "../../../../lib/index.js";
import { normSwigluComposed } from "../../../../lib/ops/normSwiglu.js";
import { qkvToCacheComposed } from "../../../../lib/ops/qkvToCache.js";
import { sizeOf } from "../../../../lib/shape.js";
import { normals, values } from "../../support.js";
import { cudaTest, firstDifference, openCuda } from "./support.js";

/** Hidden size, size of the MLP, query and key heads, dimensions of a head. */
const published: Record<string, readonly [hidden: number, mlp: number, heads: number, kvHeads: number, dim: number]> = {
  "Qwen2.5 0.5B": [896, 4864, 14, 2, 64],
  "Qwen2.5 1.5B": [1536, 8960, 12, 2, 128],
  "Qwen2.5 3B": [2048, 11008, 16, 2, 128],
  "Qwen2.5 7B": [3584, 18944, 28, 4, 128],
  "Qwen2.5 14B": [5120, 13824, 40, 8, 128],
  "Qwen2.5 32B": [5120, 27648, 40, 8, 128],
  "Qwen2.5 72B": [8192, 29568, 64, 8, 128],
  "Qwen3 0.6B": [1024, 3072, 16, 8, 128],
  "Qwen3 1.7B": [2048, 6144, 16, 8, 128],
  "Qwen3 4B": [2560, 9728, 32, 8, 128],
  "Qwen3 8B": [4096, 12288, 32, 8, 128],
  "Qwen3 14B": [5120, 17408, 40, 8, 128],
  "Qwen3 32B": [5120, 25600, 64, 8, 128],
};
/** Of H100 SXM and PCIe, H20. */
const multiprocessors = [132, 114, 78];
/** Widest rows that are normalized by the kernel. */
const WIDEST_NORM = 4096;
/** Bytes of a row of a box of the copy engine, and rows of weights that a warpgroup reads at once. */
const [ROW, WARPGROUP_ROWS] = [128, 64];

/** Stages, what is read past their ends, normalized rows and barriers are inside a block's shared memory. */
function fits(t: ExecutionContext, label: string, { defines, block, shared }: Division, width: number): void {
  const { TILES, BOXES, STAGES, NORM } = defines;
  const halves = NORM ? 2 : 1;
  const half = (16 * TILES) / halves;
  const warpgroups = Math.ceil(half / WARPGROUP_ROWS);
  t.is(block, 128 * warpgroups + 32, label);

  const stage = BOXES * ROW * (16 * TILES + (NORM ? 0 : 8));
  // A stage begins at a multiple of 1024 bytes, which may be up to 1024 further on than the block's memory.
  const usable = shared - 1024;
  t.is(stage % 1024, 0, label);
  t.true(STAGES * stage + (NORM ? 2 * 8 * width : 0) <= usable, `${label}: ${shared} bytes for stages and rows`);
  const lastHalf = (STAGES - 1) * stage + (BOXES * halves - 1) * half * ROW;
  t.true(lastHalf + warpgroups * WARPGROUP_ROWS * ROW <= usable, `${label}: ${shared} bytes for what is read`);
  t.true(shared + 16 * STAGES <= BLOCK_SHARED, `${label}: ${shared} bytes`);

  const steps = width / 64 / BOXES;
  t.true(Number.isInteger(steps) && (STAGES === steps || (STAGES >= 2 && STAGES < steps)), label);
}

for (const [name, [hidden, mlp, heads, kvHeads, dim]] of Object.entries(published)) {
  test(`${name}: blocks keep to what a multiprocessor has, and cover all outputs`, (t) => {
    const qkv = (heads + 2 * kvHeads) * dim;
    for (const count of multiprocessors) {
      const cases: [what: string, division: Division, outputs: number, width: number][] = [];
      for (const [what, outputs, width] of [
        ["o_proj", hidden, heads * dim],
        ["down_proj", hidden, mlp],
        ["qkv_proj", qkv, hidden],
        ["gate_up_proj", 2 * mlp, hidden],
      ] as const) {
        cases.push([what, dividePlain(outputs, width, count), outputs, width]);
      }
      if (hidden <= WIDEST_NORM) {
        cases.push(["norm and qkv_proj", divideQkv(qkv, hidden, dim, count), qkv, hidden]);
        cases.push(["norm and gate_up_proj", divideSwiglu(2 * mlp, hidden, count), 2 * mlp, hidden]);
      }
      for (const [what, division, outputs, width] of cases) {
        const { defines, grid, block } = division;
        const { TILES, PACKS, NORM } = defines;
        const label = `${what} on ${count}: ${JSON.stringify(defines)}`;
        fits(t, label, division, width);
        t.true(block <= 1024 && grid[0] * TILES * 16 >= outputs && (grid[0] - 1) * TILES * 16 < outputs, label);
        // A box of the copy engine has at most 256 rows.
        t.true(16 * TILES <= 256, label);
        if (NORM) t.true(PACKS * 256 >= width && (PACKS - 1) * 256 < width, label);
        if (what === "norm and qkv_proj") t.is(dim % (16 * TILES), 0, `${label}: a block is of one head`);
      }
    }
  });
}

test("Qwen2.5 3B: the products around attention find room beside it", (t) => {
  const [hidden, , heads, kvHeads, dim] = published["Qwen2.5 3B"];
  const taken = ({ shared, defines }: Division) => shared + 16 * defines.STAGES + 1024;
  const attention = hopperBytes(dim).cluster + 3 * 1024;
  for (const product of [
    dividePlain(hidden, heads * dim, 132),
    divideQkv((heads + 2 * kvHeads) * dim, hidden, dim, 132),
  ]) {
    t.true(taken(product) + attention <= MULTIPROCESSOR_SHARED, `${taken(product)} bytes`);
  }
});

test("blocks of all sizes keep to what a multiprocessor has, at all widths", (t) => {
  for (let tiles = 1; tiles <= 11; tiles++) {
    for (let width = 256; width <= WIDEST_NORM; width += 64) {
      for (const norm of [false, true]) {
        const division = divide(1024, width, norm, tiles);
        fits(t, `${norm} ${width}: ${JSON.stringify(division.defines)}`, division, width);
      }
    }
  }
});

/** Stages and what is read past their ends are inside a block's shared memory; clusters share x evenly and divide the grid. */
function fitsSeveral(t: ExecutionContext, what: string, division: SeveralDivision, product: SeveralProduct): void {
  const { defines, grid, block, shared } = division;
  const { ROWS, TILES, BOXES, STAGES, CLUSTER, HALVES } = defines;
  const label = `${what}: ${JSON.stringify(defines)}`;
  t.true([16, 32, 64].includes(ROWS) && ROWS >= product.rows && (ROWS === 16 || ROWS < 2 * product.rows), label);
  t.true([1, 2, 4, 8].includes(CLUSTER) && (ROWS / CLUSTER) % 8 === 0 && grid[0] % CLUSTER === 0, label);
  t.true(grid[0] * TILES * 16 >= product.outputs && (grid[0] - CLUSTER) * TILES * 16 < product.outputs, label);
  t.is(HALVES, product.halves, label);
  t.is(block, 160, label);

  const stage = BOXES * ROW * (ROWS + 16 * TILES);
  const usable = shared - 1024;
  t.true(STAGES * stage <= usable, `${label}: ${shared} bytes for stages`);
  // 64 rows of x of each box from the last stage's start on.
  t.true((STAGES - 1) * stage + BOXES * ROW * 64 <= usable, `${label}: ${shared} bytes for what is read`);
  t.true(shared + 16 * STAGES <= BLOCK_SHARED, `${label}: ${shared} bytes`);

  const steps = product.width / 64 / BOXES;
  t.true(Number.isInteger(steps) && (STAGES === steps || (STAGES >= 2 && STAGES < steps)), label);
}

for (const [name, [hidden, mlp, heads, kvHeads, dim]] of Object.entries(published)) {
  test(`${name}: several rows, blocks keep to what a multiprocessor has, and cover all outputs in clusters`, (t) => {
    for (const count of multiprocessors) {
      for (const rows of [9, 16, 17, 32, 33, 64]) {
        for (const [what, outputs, width, halves] of [
          ["o_proj", hidden, heads * dim, 1],
          ["down_proj", hidden, mlp, 1],
          ["qkv_proj", (heads + 2 * kvHeads) * dim, hidden, 1],
          ["gate_up_proj", 2 * mlp, hidden, 2],
          ["head", 151_936, hidden, 1],
        ] as const) {
          const product = { rows, outputs, width, halves };
          fitsSeveral(t, `${what} on ${count}`, divideSeveralRows(product, count), product);
        }
      }
    }
  });
}

test("blocks of several rows of all sizes keep to what a multiprocessor has, at all widths", (t) => {
  for (let tiles = 1; tiles <= 11; tiles++) {
    for (let width = 256; width <= WIDEST_NORM; width += 64) {
      for (const rows of [16, 32, 64]) {
        for (const halves of [1, 2] as const) {
          const product = { rows, outputs: 1024, width, halves };
          for (const cluster of [2, rows / 8])
            fitsSeveral(t, `${width}`, divideSeveral(product, tiles, cluster), product);
        }
      }
    }
  }
});

test("heads of all sizes: a block's outputs are of one head", (t) => {
  for (let dim = 16; dim <= 256; dim += 16) {
    for (const [heads, kvHeads] of [
      [1, 1],
      [8, 1],
      [64, 8],
      [32, 32],
    ]) {
      const outputs = (heads + 2 * kvHeads) * dim;
      const division = divideQkv(outputs, WIDEST_NORM, dim, 132);
      const { defines, grid } = division;
      t.is(dim % (16 * defines.TILES), 0, `${dim}`);
      t.is(grid[0] * 16 * defines.TILES, outputs, `${dim}`);
      fits(t, `${dim}`, division, WIDEST_NORM);
    }
  }
});

test("chunks of paged attention fit the smallest devices of each kind", (t) => {
  for (const dim of [64, 128]) {
    t.true(chunkBytes(dim, 4) <= 163 * 1024);
    // Capability 86, 89 and 120.
    t.true(chunkBytes(dim, 2) <= 99 * 1024);
  }
  t.false([86, 89, 120].some((capability) => DEEP.has(capability)));
});

test("chunks of paged attention on Hopper: two blocks find room on a multiprocessor; boxes lie in one page", (t) => {
  for (const dim of [64, 128]) {
    for (const bytes of Object.values(hopperBytes(dim))) t.true(2 * (bytes + 3 * 1024) <= MULTIPROCESSOR_SHARED);
  }
  for (const [pageSize, rows] of [
    [64, 64],
    [128, 64],
    [96, 32],
    [48, 16],
    [24, 8],
    [20, undefined],
  ]) {
    t.is(boxRows(pageSize!), rows);
  }
});

test("a function keeps the most shared memory that it was allowed", (t) => {
  const calls: unknown[][] = [];
  const allow = sharedMemoryLimits({ funcSetAttribute: (...args: unknown[]) => calls.push(args) });
  for (const [handle, bytes] of [
    [1, 1000],
    [1, 100_000],
    [1, 60_000],
    [2, 60_000],
    [1, 120_000],
  ]) {
    allow(handle, bytes);
  }
  t.deepEqual(
    calls.map(([handle, , bytes]) => [handle, bytes]),
    [
      [1, 100_000],
      [2, 60_000],
      [1, 120_000],
    ],
  );
});

const noise = normals(7, 1_048_573);

async function makeInputs() {
  const backend = await openCuda();
  return (seed: number, shape: Shape, scale = 1): Tensor => {
    const data = Float32Array.from(
      { length: sizeOf(shape) },
      (_, i) => scale * noise[(seed * 7919 + i) % noise.length],
    );
    return tensor(data, { backend, dtype: "bf16", shape });
  };
}

const rowCounts = [1, 3, 8, 9, 16, 17, 33, 64];
/** Rows that cuBLASLt multiplies. */
const MANY = 72;

cudaTest(
  "linear: a few rows have the bits of many, also where tiles, boxes and stages do not come out even",
  async (t) => {
    const make = await makeInputs();
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
  const make = await makeInputs();
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
  const make = await makeInputs();
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
    const make = await makeInputs();
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
  const make = await makeInputs();
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
