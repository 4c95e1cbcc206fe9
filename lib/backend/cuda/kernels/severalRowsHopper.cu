// Products of 9 to 64 rows by a weight matrix, for decoding many sequences at once: y [rows, outputs] = x [rows, width] · w [outputs,
// width] transposed, with what surrounds them in a layer. width is a multiple of 64 BOXES. The time goes into reading the weights, which
// blocks of few outputs read at once, and sums have the bits of the product over many rows, as in fewRowsHopper.cu.
//
// A warpgroup multiplies 64 rows of x, of which those past ROWS are whatever lies there, by the block's TILES tiles of 16 outputs. These
// follow each other in memory, or (HALVES = 2) are as many of two halves that lie apart, gate and up; a thread has both sums then. A warp
// has the copy engine bring both operands through STAGES buffers of BOXES boxes of 64 columns: at least two buffers, unless one holds all.
//
// Where outputs are few x is most of what a block takes in. The CLUSTER blocks of a cluster share it: each brings ROWS / CLUSTER rows of a
// stage, a multiple of 8, to all. A buffer is free when all blocks of the cluster have read it. Weights do not depend on the kernel
// before, so reading them begins while it ends. Blocks past the last output bring x too.
#include "formulas.cuh"
#include "wgmma.cuh"
#include "overlap.cuh"

#ifndef ROWS
#define ROWS 64
#define TILES 1
#define BOXES 2
#define STAGES 10
#define CLUSTER 8
#define HALVES 1
#endif

constexpr int BOX = 64, GROUP = 8, OUTPUTS = 16 * TILES / HALVES; // rows of x that lie together; outputs of a half
constexpr int GROUP_BYTES = GROUP * BOX * 2, X_BYTES = ROWS * BOX * 2, HALF_BYTES = OUTPUTS * BOX * 2;
constexpr int STAGE_BYTES = BOXES * (X_BYTES + HALVES * HALF_BYTES); // x [ROWS / GROUP, BOXES, GROUP, BOX], w [HALVES, BOXES, OUTPUTS, BOX]
constexpr int OWN_GROUPS = ROWS / GROUP / CLUSTER, THREADS = 160;
static_assert(OWN_GROUPS * GROUP * CLUSTER == ROWS, "blocks of a cluster bring a multiple of 8 rows each");
// Dynamic shared memory: STAGES * STAGE_BYTES, then what 64 rows of the last stage's last box take past its end, and 1024 for alignment.
extern __shared__ uint4 dynamic_shared[];

typedef Pack<bf16, 2> Pair; // of outputs that follow each other

// This thread's outputs are own_output() and the next, 8 on and so forth, its rows of x own_row(0) and own_row(1).
__device__ __forceinline__ int own_output() { return threadIdx.x % 4 * 2; }
__device__ __forceinline__ int own_row(int e) { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * e; }

// sums [64, N] += a [64, 16] · b [16, N], in parts that wgmma has here.
template <int N> __device__ __forceinline__ void multiply(float *sums, u64 a, u64 b) {
  constexpr int PART = N >= 128 ? 128 : N >= 64 ? 64 : N >= 32 ? 32 : N >= 16 ? 16 : 8;
  wgmma_shared<0, 0>(*(float(*)[PART / 2])sums, a, b, 1);
  if constexpr (N > PART) multiply<N - PART>(sums + PART / 2, a, b + (PART * BOX * 2 >> 4));
}

// halves: the first outputs of the block's halves. begin(): starts loading what finish needs, once the kernel before has ended.
// finish(j, e, sums): the sums of own_output() + 8 j and the next, in each half, for own_row(e).
template <typename Begin, typename Finish>
__device__ __forceinline__ void several_rows(const TensorMap &w_map, const TensorMap &x_map, const int (&halves)[2], int rows, int width,
                                             Begin begin, Finish finish) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[2 * STAGES];
  const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
  const u32 shared = (shared_address(dynamic_shared) + 1023) / 1024 * 1024;
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32, rank = cluster_rank();
  const int steps = width / (BOX * BOXES), ahead = min(steps, STAGES);
  const bool brings = threadIdx.x == 128;
  const auto bring_w = [&](int step, int stage) {
    const u32 to = shared + stage * STAGE_BYTES + BOXES * X_BYTES, barrier = full + 8 * stage;
    barrier_expect(barrier, STAGE_BYTES); // of x too, whoever brings it
#pragma unroll
    for (int half = 0; half < HALVES; half++) tma_load(to + half * BOXES * HALF_BYTES, w_map, 0, halves[half], step * BOXES, barrier);
  };
  const auto bring_x = [&](int step, int stage) {
#pragma unroll
    for (int own = 0; own < OWN_GROUPS; own++) {
      const int group = rank * OWN_GROUPS + own;
      const u32 to = shared + stage * STAGE_BYTES + group * BOXES * GROUP_BYTES, barrier = full + 8 * stage;
      if (CLUSTER == 1)
        tma_load(to, x_map, 0, group * GROUP, step * BOXES, barrier);
      else
        tma_load_multicast(to, x_map, 0, group * GROUP, step * BOXES, barrier, (1 << CLUSTER) - 1);
    }
  };

  let_kernel_after_begin();
  if (brings) {
    for (int stage = 0; stage < STAGES; stage++) barrier_init(full + 8 * stage, 1), barrier_init(empty + 8 * stage, 4 * CLUSTER);
    barrier_init_fence();
    for (int step = 0; step < ahead; step++) bring_w(step, step);
  }
  __syncwarp();
  cluster_sync(); // all barriers are ready
  wait_for_kernel_before();
  if (warp == 4) {
    if (brings) {
      for (int step = 0; step < ahead; step++) bring_x(step, step);
      int stage = 0;
      u32 parity = 0;
      for (int step = STAGES; step < steps; step++) {
        barrier_wait(empty + 8 * stage, parity);
        bring_w(step, stage);
        bring_x(step, stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
      }
    }
  } else {
    begin();
    float sums[HALVES][OUTPUTS / 2] = {};
#pragma unroll
    for (int half = 0; half < HALVES; half++) hold(sums[half]);
    int stage = 0, before = 0;
    u32 parity = 0;
    bool there = false; // the stage's boxes
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      if (!there) barrier_wait(full + 8 * stage, parity);
      const int next = stage + 1 < STAGES ? stage + 1 : 0;
      if (next == 0) parity ^= 1;
      wgmma_fence();
#pragma unroll
      for (int box = 0; box < BOXES; box++) {
        const u32 at = shared + stage * STAGE_BYTES;
        const u64 x = descriptor(at + box * GROUP_BYTES, 16, BOXES * GROUP_BYTES), w = descriptor(at + BOXES * X_BYTES + box * HALF_BYTES);
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
          for (int half = 0; half < HALVES; half++)
            multiply<OUTPUTS>(sums[half], x + (k * 32 >> 4), w + (half * BOXES * HALF_BYTES + k * 32 >> 4));
      }
      wgmma_commit();
      there = barrier_passed(full + 8 * next, parity);
      wgmma_wait<1>(); // of the step before, whose buffer is free for all blocks' copies where there are more
      if (lane < CLUSTER && step > 0 && step - 1 + STAGES < steps) barrier_arrive_remote(empty + 8 * before, lane);
      before = stage, stage = next;
    }
    wgmma_wait<0>();
#pragma unroll
    for (int half = 0; half < HALVES; half++) hold(sums[half]);
#pragma unroll
    for (int j = 0; j < OUTPUTS / 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float own[HALVES][2];
#pragma unroll
        for (int half = 0; half < HALVES; half++) own[half][0] = sums[half][4 * j + 2 * e], own[half][1] = sums[half][4 * j + 2 * e + 1];
        if (own_row(e) < rows) finish(j, e, own);
      }
  }
  __syncwarp();
  cluster_sync(); // a block's shared memory stays while others may reach it
#endif
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LAUNCH_BOUNDS __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS)
#else
#define LAUNCH_BOUNDS __launch_bounds__(THREADS)
#endif

// Boxes of the maps: BOXES side by side, of OUTPUTS rows of w and of 8 rows of x. outputs is a multiple of 8, all addresses are of 4 bytes.
#if HALVES == 1
// y = x·wᵀ (+ bias) (+ residual). Grid: outputs / OUTPUTS, rounded up to a multiple of CLUSTER.
extern "C" __global__ void LAUNCH_BOUNDS
several_rows_plain(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, const bf16 *bias, const bf16 *residual, bf16 *y,
                   int rows, int outputs, int width) {
  const int first = blockIdx.x * OUTPUTS;
  Pair added[OUTPUTS / 8] = {}, past[OUTPUTS / 8][2] = {};
  several_rows(w, x, {first, 0}, rows, width,
               [&] {
#pragma unroll
                 for (int j = 0; j < OUTPUTS / 8; j++) {
                   const int output = first + own_output() + 8 * j;
                   if (output >= outputs) continue;
                   if (bias) added[j] = *(const Pair *)(bias + output);
#pragma unroll
                   for (int e = 0; e < 2; e++)
                     if (residual && own_row(e) < rows) past[j][e] = *(const Pair *)(residual + (i64)own_row(e) * outputs + output);
                 }
               },
               [&](int j, int e, const float (&sums)[HALVES][2]) {
                 const int output = first + own_output() + 8 * j;
                 if (output >= outputs) return;
                 Pair out;
#pragma unroll
                 for (int i = 0; i < 2; i++) {
                   float sum = sums[0][i];
                   if (bias) sum = __fadd_rn(sum, to_float(added[j].at[i]));
                   if (residual) sum = __fadd_rn(sum, to_float(past[j][e].at[i]));
                   out.at[i] = from_float<bf16>(sum);
                 }
                 *(Pair *)(y + (i64)own_row(e) * outputs + output) = out;
               });
}

#else
// y [rows, half] = silu(gate)·up, of x · w [gate | up] with `half` outputs each. Grid: as above, of `half` outputs.
extern "C" __global__ void LAUNCH_BOUNDS
several_rows_swiglu(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, bf16 *y, int rows, int half, int width) {
  const int first = blockIdx.x * OUTPUTS;
  several_rows(w, x, {first, half + first}, rows, width, [] {},
               [&](int j, int e, const float (&sums)[HALVES][2]) {
                 const int output = first + own_output() + 8 * j;
                 if (output >= half) return;
                 Pair out;
#pragma unroll
                 for (int i = 0; i < 2; i++) out.at[i] = from_float<bf16>(gated(rounded(sums[0][i]), rounded(sums[1][i])));
                 *(Pair *)(y + (i64)own_row(e) * half + output) = out;
               });
}
#endif
