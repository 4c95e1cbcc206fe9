/* How the kernels of few rows and of paged attention are cut into blocks: what a block asks for is there, and every output has one. */
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
import {
  divideMany,
  divideManyRows,
  type ManyDivision,
  type ManyProduct,
  MOST_COLUMNS,
} from "../../../../lib/backend/cuda/fused/manyRowsDivision.js";
import { chunkBytes, DEEP } from "../../../../lib/backend/cuda/fused/pagedAttention.js";
import { BESIDES, boxRows, divideChunks } from "../../../../lib/backend/cuda/fused/pagedAttentionHopper.js";
import {
  divideSeveral,
  divideSeveralRows,
  type SeveralDivision,
  type SeveralProduct,
} from "../../../../lib/backend/cuda/fused/severalRowsDivision.js";
import { sharedMemoryLimits } from "../../../../lib/backend/cuda/kernels.js";

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
  const attention = divideChunks({ count: 2, chunksOfEach: 2 }, { kvHeads, headDim: dim }, 132).shared + BESIDES;
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
  const { ROWS, ROW_BLOCKS, SHARERS, OUTPUTS, BOXES, STAGES, HALVES } = defines;
  const label = `${what}: ${JSON.stringify(defines)}`;
  const [rows, cluster] = [ROWS * ROW_BLOCKS, SHARERS * ROW_BLOCKS];
  t.true([16, 32, 64].includes(rows) && rows >= product.rows && (rows === 16 || rows < 2 * product.rows), label);
  t.true([1, 2, 4, 8].includes(cluster) && (ROWS / SHARERS) % 8 === 0 && grid[0] % cluster === 0, label);
  const { apart = product.outputs / HALVES } = product;
  const blocks = (product.outputs / HALVES / apart) * Math.ceil(apart / OUTPUTS);
  const columns = grid[0] / ROW_BLOCKS;
  t.true(columns >= blocks && columns - SHARERS < blocks && OUTPUTS % 8 === 0, label);
  // What a warpgroup multiplies at once.
  t.true((BOXES === 1 ? HALVES : 1) * OUTPUTS <= 256, label);
  t.is(HALVES, product.halves, label);
  t.is(block, 160, label);

  const stage = BOXES * ROW * (ROWS + HALVES * OUTPUTS);
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
        for (const [what, outputs, width, halves, apart] of [
          ["o_proj", hidden, heads * dim, 1],
          ["down_proj", hidden, mlp, 1],
          ["qkv_proj", (heads + 2 * kvHeads) * dim, hidden, 2, dim / 2],
          ["gate_up_proj", 2 * mlp, hidden, 2],
          ["head", 151_936, hidden, 1],
        ] as const) {
          const product = { rows, outputs, width, halves, apart };
          fitsSeveral(t, `${what} on ${count}`, divideSeveralRows(product, count), product);
        }
      }
    }
  });
}

test("several rows: blocks have as few outputs as one wave allows, and of more rows than outputs half", (t) => {
  const cut = (rows: number, outputs: number, width: number, halves: 1 | 2, apart?: number) => {
    const { ROWS, ROW_BLOCKS, SHARERS, OUTPUTS } = divideSeveralRows(
      { rows, outputs, width, halves, apart },
      132,
    ).defines;
    return [ROWS, ROW_BLOCKS, SHARERS, OUTPUTS];
  };
  t.deepEqual(cut(64, 2048, 11_008, 1), [32, 2, 4, 40], "down_proj, 3B");
  t.deepEqual(cut(64, 2560, 2048, 2, 64), [32, 2, 4, 24], "qkv_proj, 3B");
  t.deepEqual(cut(64, 22_016, 2048, 2), [64, 1, 2, 88], "gate_up_proj, 3B");
  t.deepEqual(cut(64, 9728, 896, 2), [64, 1, 8, 48], "gate_up_proj, 0.5B");
  t.deepEqual(cut(32, 2048, 11_008, 1), [32, 1, 4, 24], "down_proj, 3B, 32 rows");
});

test("blocks of several rows of all sizes keep to what a multiprocessor has, at all widths", (t) => {
  for (let tiles = 1; tiles <= 11; tiles++) {
    for (let width = 256; width <= WIDEST_NORM; width += 64) {
      for (const rows of [16, 32, 64]) {
        for (const halves of [1, 2] as const) {
          const product = { rows, outputs: 1024, width, halves };
          const OUTPUTS = (16 * tiles) / halves;
          for (const SHARERS of [2, rows / 8])
            fitsSeveral(
              t,
              `${width}`,
              divideSeveral(product, { ROWS: rows, ROW_BLOCKS: 1, SHARERS, OUTPUTS }),
              product,
            );
        }
      }
    }
  }
});

/** Stages, results and barriers are inside a block's shared memory, sums in its registers; whole clusters of a full grid at most. */
function fitsMany(
  t: ExecutionContext,
  what: string,
  division: ManyDivision,
  product: ManyProduct,
  count: number,
): void {
  const { defines, grid, block, shared, group } = division;
  const { COLUMNS, STAGES, ROW_BLOCKS, COLUMN_BLOCKS, LEAD } = defines;
  const label = `${what}: ${JSON.stringify(defines)}`;
  t.true(COLUMNS % 8 === 0 && COLUMNS >= 8 && COLUMNS <= MOST_COLUMNS, label);
  t.is(block, 384, label);

  const stage = 128 * ROW + 2 * COLUMNS * ROW;
  // Rows of results begin 16 bytes further on where they would begin at the same banks, in eights of packs of 8 they are swizzled.
  const pitch = 2 * COLUMNS + ((COLUMNS / 8) % 2 === 0 && COLUMNS % 64 !== 0 ? 16 : 0);
  t.true(
    STAGES * stage + 128 * pitch + 16 * STAGES + 1024 <= shared && shared <= BLOCK_SHARED,
    `${label}: ${shared} bytes`,
  );
  t.true(STAGES >= 3 && STAGES <= 8 && LEAD < STAGES, label);

  const cluster = ROW_BLOCKS * COLUMN_BLOCKS;
  const bands = Math.ceil(product.rows / 128 / ROW_BLOCKS);
  const units = bands * Math.ceil(product.half / COLUMNS / COLUMN_BLOCKS);
  t.true(grid[0] % cluster === 0 && grid[0] <= count && grid[0] <= cluster * units, label);
  t.true(grid[0] > count - cluster || grid[0] === cluster * units, `${label}: no block is left out`);
  t.true(group >= 1, label);
}

for (const [name, [hidden, mlp]] of Object.entries(published)) {
  test(`${name}: many rows, blocks keep to what a multiprocessor has, in few kinds`, (t) => {
    for (const count of multiprocessors) {
      const kinds = new Set<string>();
      for (const rows of [65, 128, 129, 200, 256, 257, 512, 1000, 2048, 5120, 8192, 100_000]) {
        const product = { rows, half: mlp, width: hidden };
        const division = divideManyRows(product, count);
        if (rows <= 256) t.truthy(division, `${rows} rows`);
        if (!division) continue;
        fitsMany(t, `${rows} rows on ${count}`, division, product, count);
        kinds.add(JSON.stringify(division.defines));
      }
      t.true(kinds.size <= 4, `${kinds.size} kernels to compile`);
    }
  });
}

test("blocks of many rows of all sizes keep to what a multiprocessor has", (t) => {
  const product = { rows: 1000, half: 4872, width: 896 };
  for (let COLUMNS = 8; COLUMNS <= MOST_COLUMNS; COLUMNS += 8) {
    for (const ROW_BLOCKS of [1, 2] as const) {
      for (const COLUMN_BLOCKS of [1, 2] as const) {
        const division = divideMany(product, { COLUMNS, ROW_BLOCKS, COLUMN_BLOCKS }, 132);
        fitsMany(t, `${COLUMNS}`, division, product, 132);
      }
    }
  }
});

test("Qwen2.5 3B on 132 multiprocessors: 512 rows are two full waves; rows that would leave many idle go to the library", (t) => {
  const [width, half] = published["Qwen2.5 3B"];
  const division = divideManyRows({ rows: 512, half, width }, 132)!;
  t.deepEqual([division.grid[0], division.defines.COLUMNS, Math.ceil(half / 168)], [132, 168, 66]);
  for (const rows of [300, 1025]) t.is(divideManyRows({ rows, half, width }, 132), undefined, `${rows} rows`);
  for (const rows of [2048, 5120, 8192])
    t.is(divideManyRows({ rows, half, width }, 132)?.defines.COLUMNS, 128, `${rows} rows`);
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

/** Qwen2.5's 3B and 0.5B on an H200. */
const [of3B, ofHalfB] = [
  { kvHeads: 2, headDim: 128 },
  { kvHeads: 2, headDim: 64 },
];

test("chunks of paged attention on Hopper: clusters where they are few, whole sequences where these fill the device", (t) => {
  for (const [sequences, chunksOfEach, by, items, blocks] of [
    [1, 2, "clusters", 1, 16],
    [8, 2, "clusters", 8, 128],
    [5, 3, "clusters", 15, 120],
    [9, 2, "chunks", 18, 36],
    [59, 2, "chunks", 118, 236],
    [64, 2, "chunks", 128, 256],
    [98, 2, "chunks", 196, 392],
    [99, 1, "sequences", 99, 198],
    [128, 4, "sequences", 128, 256],
    [128, 5, "chunks", 640, 1280],
    [256, 2, "sequences", 256, 264],
  ] as const) {
    const division = divideChunks({ count: sequences * chunksOfEach, chunksOfEach }, of3B, 132);
    t.like(division, { by, items, blocks }, `${sequences} sequences of ${chunksOfEach} chunks`);
  }
  // Chunks of which nobody said how they lie.
  t.like(divideChunks({ count: 128 }, of3B, 132), { by: "chunks", items: 128, blocks: 256 });
});

test("chunks of paged attention on Hopper: two blocks find room on a multiprocessor", (t) => {
  for (const count of multiprocessors) {
    for (const layout of [of3B, ofHalfB, { kvHeads: 8, headDim: 128 }, { kvHeads: 1, headDim: 64 }]) {
      for (let sequences = 1; sequences <= 300; sequences++) {
        for (const chunksOfEach of [undefined, 1, 2, 4, 5]) {
          const { by, defines, shared } = divideChunks(
            { count: sequences * (chunksOfEach ?? 1), chunksOfEach },
            layout,
            count,
          );
          const label = `${sequences} × ${chunksOfEach} on ${count}: ${JSON.stringify(defines)}`;
          t.true(2 * (shared + BESIDES) <= MULTIPROCESSOR_SHARED, label);
          if (by === "clusters") continue;
          // Half a chunk's keys at least, and no more than a chunk.
          t.true(defines.STAGES >= 4 && defines.STAGES <= 16, label);
          t.is(defines.WHOLE === 1, by === "sequences", label);
        }
      }
    }
  }
  t.deepEqual(divideChunks({ count: 128, chunksOfEach: 2 }, of3B, 132).defines, { STAGES: 4, WHOLE: 0 });
  t.deepEqual(divideChunks({ count: 512, chunksOfEach: 2 }, of3B, 132).defines, { STAGES: 4, WHOLE: 1 });
});

test("boxes of keys lie in one page", (t) => {
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
