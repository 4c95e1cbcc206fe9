// Products of 9 to 64 rows by a weight matrix (rowsHopper.cuh), for decoding many sequences at once, with what surrounds them in a layer.
// The time goes into reading the weights, which do not depend on the kernel before, so that begins while it ends.
#include "rowsHopper.cuh"

#ifndef ROWS
#define ROWS 64
#define ROW_BLOCKS 1
#define SHARERS 8
#define OUTPUTS 16
#define BOXES 2
#define STAGES 10
#define HALVES 1
#endif

typedef Part<ROWS, ROW_BLOCKS, SHARERS, OUTPUTS, BOXES, HALVES> Own;
constexpr int THREADS = 160;
[[maybe_unused]] constexpr int PACE = 18; // bytes of weights a clock, as measured best; the memory gives a multiprocessor about 19
// Dynamic shared memory: STAGES steps, then what 64 rows of the last step's last box take past its end, and 1024 for alignment.
extern __shared__ uint4 dynamic_shared[];

// halves: the first outputs of the block's halves. begin(): starts loading what finish needs, once the kernel before has ended.
// finish: as Part::each has it. Blocks past the last output bring x too.
template <typename Begin, typename Finish>
__device__ __forceinline__ void several_rows(const TensorMap &w, const TensorMap &x, const int (&halves)[2], int rows, int width,
                                             Begin begin, Finish finish) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[2 * STAGES];
  const Ring<STAGES, Own::bytes> ring(dynamic_shared, barriers);
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  const int steps = Own::steps(width), ahead = min(steps, STAGES);
  const bool brings = threadIdx.x == 128;
  const auto bring_ahead = [&] {
    const Pace<PACE> pace;
#pragma unroll 1
    for (int step = 0; step < ahead; step++) {
      pace.wait(step * Own::halves * Own::boxes * Own::half_bytes / ROW_BLOCKS);
      Own::bring_w(ring, w, halves, step, step);
    }
  };

  let_kernel_after_begin();
  if (brings) ring.init(Own::cluster);
  __syncwarp();
  cluster_sync(); // all barriers are ready
  if (brings) bring_ahead();
  wait_for_kernel_before();
  if (threadIdx.x == 0) // not the one that brings weights, which may be held back
#pragma unroll 1
    for (int step = 0; step < ahead; step++) Own::bring_x(ring, x, step, step);
  if (warp == 4) {
    if (brings) {
      int stage = 0;
      for (int step = STAGES; step < steps; step++) {
        ring.wait_empty(step);
        Own::bring_w(ring, w, halves, step, stage);
        Own::bring_x(ring, x, step, stage);
        if (++stage == STAGES) stage = 0;
      }
    }
  } else {
    begin();
    float sums[Own::summed];
    Own::multiply(ring, steps, sums);
    Own::each(sums, rows, finish);
  }
  __syncwarp();
  cluster_sync(); // a block's shared memory stays while others may reach it
#endif
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LAUNCH_BOUNDS __cluster_dims__(Own::cluster, 1, 1) __launch_bounds__(THREADS)
#else
#define LAUNCH_BOUNDS __launch_bounds__(THREADS)
#endif

// Boxes of the maps: BOXES side by side, of OUTPUTS rows of w and of 8 rows of x. outputs is a multiple of 8, all addresses are of 4 bytes.
// Grid: blocks of OUTPUTS, rounded up to a multiple of SHARERS, times ROW_BLOCKS.
#if HALVES == 1
// y = x·wᵀ (+ bias) (+ residual).
extern "C" __global__ void LAUNCH_BOUNDS
several_rows_plain(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, const bf16 *bias, const bf16 *residual, bf16 *y,
                   int rows, int outputs, int width) {
  const int first = Own::block_of_outputs() * OUTPUTS;
  Pair added[OUTPUTS / 8] = {}, past[OUTPUTS / 8][2] = {};
  several_rows(w, x, {first, 0}, rows, width,
               [&] {
#pragma unroll
                 for (int j = 0; j < OUTPUTS / 8; j++) {
                   const int output = first + Own::own_output() + 8 * j;
                   if (output >= outputs) continue;
                   if (bias) added[j] = *(const Pair *)(bias + output);
#pragma unroll
                   for (int e = 0; e < 2; e++)
                     if (residual && Own::has_row(e, rows)) past[j][e] = *(const Pair *)(residual + (i64)Own::own_row(e) * outputs + output);
                 }
               },
               [&](int j, int e, const float (&sums)[HALVES][2]) {
                 const int output = first + Own::own_output() + 8 * j;
                 if (output >= outputs) return;
                 Pair out;
#pragma unroll
                 for (int i = 0; i < 2; i++) {
                   float sum = sums[0][i];
                   if (bias) sum = __fadd_rn(sum, to_float(added[j].at[i]));
                   if (residual) sum = __fadd_rn(sum, to_float(past[j][e].at[i]));
                   out.at[i] = from_float<bf16>(sum);
                 }
                 *(Pair *)(y + (i64)Own::own_row(e) * outputs + output) = out;
               });
}

#elif !defined(HEAD_DIM)
// y [rows, half] = silu(gate)·up, of x · w [gate | up] with `half` outputs each.
extern "C" __global__ void LAUNCH_BOUNDS
several_rows_swiglu(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, bf16 *y, int rows, int half, int width) {
  const int first = Own::block_of_outputs() * OUTPUTS;
  several_rows(w, x, {first, half + first}, rows, width, [] {},
               [&](int j, int e, const float (&sums)[HALVES][2]) {
                 const int output = first + Own::own_output() + 8 * j;
                 if (output < half) *(Pair *)(y + (i64)Own::own_row(e) * half + output) = gated_pair(sums);
               });
}

#else
// Queries, keys and values of x · w [heads + 2 kvHeads heads of HEAD_DIM] (+ bias).
extern "C" __global__ void LAUNCH_BOUNDS
several_rows_qkv(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, const bf16 *bias, const int *positions,
                 const float *cosines, const float *sines, int known, const int *at, bf16 *y, bf16 *cache, int cacheRows, int rows,
                 int heads, int kvHeads, int width) {
  const Places places{bias, positions, cosines, sines, known, at, y, cache, cacheRows, heads, kvHeads};
  Turned<Own, HEAD_DIM> turned(places);
  several_rows(w, x, {turned.first(), turned.first() + HEAD_DIM / 2}, rows, width, [&] { turned.begin(rows); },
               [&](int j, int e, const float (&sums)[HALVES][2]) { turned.finish(j, e, sums); });
}
#endif
