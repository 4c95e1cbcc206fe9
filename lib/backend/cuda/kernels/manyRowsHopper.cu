// The first half of an MLP over more than 64 rows: y [rows, half] = silu(gate)·up of x [rows, width] · w [gate | up] transposed, with `half`
// outputs each; gate and up never go to memory. Sums have the bits of the product that rounds them to bf16: tensor-core steps of 16 in order
// along the width, the first without accumulator.
//
// Shape: a block has two computing warpgroups, each with 64 rows by COLUMNS of gate and as many of up in registers, and a producer warp.
// Blocks go in clusters of ROW_BLOCKS by COLUMN_BLOCKS, one or two each: those with the same columns share weights, of which one brings
// gate and the other up, those with the same rows share x, of which each brings half. Weights do not depend on the kernel before, so
// reading them begins while it ends.
#include "formulas.cuh"
#include "overlap.cuh"
#include "wgmma.cuh"

#ifndef COLUMNS
#define COLUMNS 168 // of each half, a multiple of 8
#define STAGES 3
#define ROW_BLOCKS 2
#define COLUMN_BLOCKS 1
#endif
#ifndef LEAD // stages that the first warpgroup is ahead at the start, so that one's silu runs beside the other's products
#define LEAD 1
#endif

constexpr int ROWS = 128, STEP = 64, CLUSTER = ROW_BLOCKS * COLUMN_BLOCKS;
constexpr int X_BYTES = ROWS * STEP * 2, HALF_BYTES = COLUMNS * STEP * 2, STAGE_BYTES = X_BYTES + 2 * HALF_BYTES;
// wgmma is 256 columns wide at most: gate and up of one box after the other in one, or in one each.
constexpr int PARTS = COLUMNS <= 128 ? 1 : 2, PART_SUMS = COLUMNS / PARTS;
// Results of a warp's 16 rows on their way out. Rows begin at different banks, by an odd number of packs (of 8 columns) or by a swizzle.
constexpr int PACKS = COLUMNS / 8, PITCH = PACKS % 8 == 0 ? PACKS : PACKS | 1;
[[maybe_unused]] constexpr int STAGING_BYTES = 16 * PITCH * 16;
static_assert(LEAD < STAGES && LEAD < 4, "there are that many stages, of at least four steps");
// Dynamic shared memory: STAGES STAGE_BYTES + 8 STAGING_BYTES + 128 (barriers) + 1024 (alignment) bytes.

__device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }

struct Problem {
  int rows, half, width, group;
  __device__ __forceinline__ int bands() const { return (rows + ROW_BLOCKS * ROWS - 1) / (ROW_BLOCKS * ROWS); }
  __device__ __forceinline__ int chunks() const { return (half + COLUMN_BLOCKS * COLUMNS - 1) / (COLUMN_BLOCKS * COLUMNS); }
  __device__ __forceinline__ int units() const { return bands() * chunks(); }
  __device__ __forceinline__ int steps() const { return width / STEP; }
};

// A block's share of a cluster's unit. Units go down `group` bands of rows, then to the next columns, so that blocks that run together
// share both operands in the second-level cache.
struct Unit {
  int row, column;
  __device__ __forceinline__ Unit(int unit, int rank, const Problem &problem) {
    const int first = unit / (problem.group * problem.chunks()) * problem.group, local = unit - first * problem.chunks();
    const int size = min_of(problem.bands() - first, problem.group);
    row = ((first + local % size) * ROW_BLOCKS + rank % ROW_BLOCKS) * ROWS;
    column = (local / size * COLUMN_BLOCKS + rank / ROW_BLOCKS) * COLUMNS;
  }
};

// Stages filled and freed in turn. A full barrier takes one arrival and the copies' bytes, an empty one an arrival of each
// computing warp of the cluster.
struct Pipeline {
  u32 shared, barriers;
  int stage = 0, parity = 0;
  __device__ __forceinline__ u32 x() const { return shared + stage * STAGE_BYTES; }
  __device__ __forceinline__ u32 weights() const { return x() + X_BYTES; }
  __device__ __forceinline__ u32 full() const { return barriers + 8 * stage; }
  __device__ __forceinline__ u32 empty() const { return barriers + 8 * (STAGES + stage); }
  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

__device__ __forceinline__ void bring_weights(const Pipeline &to, const TensorMap &w, const Problem &problem, const Unit &at, int rank, int k) {
  barrier_expect(to.full(), STAGE_BYTES); // of x too, whoever brings it
  if (ROW_BLOCKS == 2) {
    const int half = rank % 2, blocks = 3 << (rank & 2);
    tma_load_multicast(to.weights() + half * HALF_BYTES, w, k * STEP, half * problem.half + at.column, to.full(), blocks);
  } else {
    tma_load(to.weights(), w, k * STEP, at.column, to.full());
    tma_load(to.weights() + HALF_BYTES, w, k * STEP, problem.half + at.column, to.full());
  }
}

__device__ __forceinline__ void bring_x(const Pipeline &to, const TensorMap &x, const Unit &at, int rank, int k) {
  if (COLUMN_BLOCKS == 2) {
    const int part = rank / ROW_BLOCKS * (ROWS / 2), blocks = (1 << ROW_BLOCKS | 1) << rank % ROW_BLOCKS;
    tma_load_multicast(to.x() + part * STEP * 2, x, k * STEP, at.row + part, to.full(), blocks);
  } else {
    tma_load(to.x(), x, k * STEP, at.row, to.full());
  }
}

__device__ __forceinline__ void produce(const TensorMap &w, const TensorMap &x, const Problem &problem, int rank, Pipeline pipe) {
  const int steps = problem.steps(), units = problem.units();
  int k = 0;
  {
    const Unit at(blockIdx.x / CLUSTER, rank, problem);
    Pipeline first = pipe;
#pragma unroll 1
    for (; k < min_of(steps, STAGES); k++, first.advance()) bring_weights(first, w, problem, at, rank, k);
    wait_for_kernel_before();
#pragma unroll 1
    for (int i = 0; i < k; i++, pipe.advance()) bring_x(pipe, x, at, rank, i);
  }
#pragma unroll 1
  for (int unit = blockIdx.x / CLUSTER; unit < units; unit += gridDim.x / CLUSTER, k = 0) {
    const Unit at(unit, rank, problem);
#pragma unroll 1
    for (; k < steps; k++, pipe.advance()) {
      barrier_wait(pipe.empty(), pipe.parity ^ 1);
      bring_weights(pipe, w, problem, at, rank, k);
      bring_x(pipe, x, at, rank, k);
    }
  }
}

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000); }

// The results of a warp: rows [row, row + 16), columns [column, column + COLUMNS) as far as there are.
__device__ __forceinline__ void finish(float (&sums)[PARTS][PART_SUMS], bf16 *y, char *staging, int row, int column, const Problem &problem) {
  constexpr int BATCH = 4; // packs at a time
  const int lane = threadIdx.x % 32, own = lane / 4;
  const auto pair = [&](int i) { return pack_bf16(sums[i / PART_SUMS][i % PART_SUMS], sums[i / PART_SUMS][i % PART_SUMS + 1]); };
  __syncwarp(); // the results before have been read
#pragma unroll
  for (int first = 0; first < PACKS; first += BATCH) {
    u32 out[BATCH][2]; // of rows `own` and 8 on
#pragma unroll
    for (int j = 0; j < BATCH; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        if (first + j >= PACKS) continue;
        const int i = 4 * (first + j) + 2 * e;
        const u32 gate = pair(i), up = pair(COLUMNS / 2 + i);
        out[j][e] = pack_bf16(gated(low(gate), low(up)), gated(high(gate), high(up)));
      }
#pragma unroll
    for (int j = 0; j < BATCH; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        if (first + j >= PACKS) continue;
        const int pack = PACKS % 8 == 0 ? first + j ^ own : first + j;
        *(u32 *)(staging + ((own + 8 * e) * PITCH + pack) * 16 + lane % 4 * 4) = out[j][e];
      }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * PACKS; i += 32) {
    const int at = (i + lane) / PACKS, pack = (i + lane) % PACKS;
    if (at < 16 && row + at < problem.rows && column + 8 * pack < problem.half)
      *(uint4 *)(y + (i64)(row + at) * problem.half + column + 8 * pack) =
          *(const uint4 *)(staging + (at * PITCH + (PACKS % 8 == 0 ? pack ^ at % 8 : pack)) * 16);
  }
}

// All tiles of a warpgroup.
__device__ __forceinline__ void consume(const Problem &problem, bf16 *y, char *staging, int rank, int warp, Pipeline pipe) {
  const int lane = threadIdx.x % 32, steps = problem.steps(), units = problem.units(), warpgroup = warp / 4;
  Pipeline used = pipe; // the next to be freed
  const auto release = [&] { // to the producers of all blocks
    if (lane < CLUSTER) barrier_arrive_remote(used.empty(), lane);
    used.advance();
  };
  float sums[PARTS][PART_SUMS];
  const auto multiply = [&](int accumulate) {
    barrier_wait(pipe.full(), pipe.parity);
    const u64 a = descriptor(pipe.x() + warpgroup * 64 * 128), b = descriptor(pipe.weights());
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < STEP / 16; i++)
#pragma unroll
      for (int part = 0; part < PARTS; part++)
        wgmma_shared<0, 0>(sums[part], a + (i * 32 >> 4), b + (part * HALF_BYTES + i * 32 >> 4), i > 0 ? 1 : accumulate);
    wgmma_commit();
    pipe.advance();
  };
  wait_for_kernel_before(); // which may still read what lay in y
  if (LEAD > 0 && warpgroup == 1) barrier_wait(pipe.full() + 8 * LEAD, 0);
#pragma unroll 1
  for (int unit = blockIdx.x / CLUSTER; unit < units; unit += gridDim.x / CLUSTER) {
    multiply(0);
#pragma unroll 1
    for (int k = 1; k < steps; k++) {
      multiply(1);
      wgmma_wait<1>();
      release();
    }
    wgmma_wait<0>();
    release();
#pragma unroll
    for (int part = 0; part < PARTS; part++) hold(sums[part]);
    const Unit at(unit, rank, problem);
    finish(sums, y, staging, at.row + 16 * warp, at.column, problem);
  }
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LAUNCH_BOUNDS __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1)
#else
#define LAUNCH_BOUNDS __launch_bounds__(384, 1)
#endif

// Grid: CLUSTER * min(multiprocessors / CLUSTER, units) blocks of 384 threads. The maps' boxes are 64 columns by COLUMNS rows of w and by
// 128 / COLUMN_BLOCKS rows of x, with the 128-byte swizzle, zeros out of bounds. width is a multiple of 64 and at least 256, half of 8, y
// begins at a multiple of 16 bytes; `group`: bands of ROW_BLOCKS * 128 rows that share columns.
extern "C" __global__ void LAUNCH_BOUNDS many_rows_swiglu(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, bf16 *y,
                                                          int rows, int half, int width, int group) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char unaligned[];
  const u32 start = shared_address(unaligned), shared = start + 1023 & ~1023u, barriers = shared + STAGES * STAGE_BYTES + 8 * STAGING_BYTES;
  const Problem problem{rows, half, width, group};
  const Pipeline pipe{shared, barriers};
  const int rank = cluster_rank(), warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  let_kernel_after_begin();
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(barriers + 8 * stage, 1);
      barrier_init(barriers + 8 * (STAGES + stage), 8 * CLUSTER);
    }
    barrier_init_fence();
  }
  cluster_sync();
  if (warp >= 8) {
    registers_give<24>();
    if (threadIdx.x == 256) produce(w, x, problem, rank, pipe);
  } else {
    registers_take<240>();
    consume(problem, y, unaligned + (shared - start) + STAGES * STAGE_BYTES + warp * STAGING_BYTES, rank, warp, pipe);
  }
  __syncwarp();
  cluster_sync(); // a block's shared memory stays while others may reach it
#endif
}
