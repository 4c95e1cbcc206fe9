// Products of a few rows by a weight matrix, for decoding: the time goes into reading the weights. y [rows, outputs] =
// x [rows, width] · w [outputs, width] transposed, with what surrounds it in a layer. width is a multiple of STEP.
//
// An element is summed along the width by tensor-core steps of 16 in order, in one accumulator, as cuBLASLt's kernels and those of
// linearLogprobHopper.cu do: it has the bits of the product over many rows.
//
// A block has TILES tiles of 16 outputs, SPLIT warps share one, each with some of the NT groups of 8 rows; the warps beyond those copy,
// or all where there are none. Weights and x pass through STAGES buffers of STEP columns. Weights do not depend on the kernel before,
// so reading them begins while it ends.
#include "formulas.cuh"
#include "mma.cuh"

#ifndef NT
#define NT 1
#define TILES 4
#define SPLIT 1
#define WARPS 4
#define STEP 64
#define STAGES 6
#endif

constexpr int THREADS = 32 * WARPS, ROWS = 8 * NT, STEP_UNITS = STEP / 8, OWN = NT / SPLIT;
constexpr int COMPUTING = TILES * SPLIT, COPIERS = 32 * (WARPS > COMPUTING ? WARPS - COMPUTING : WARPS);
constexpr int W_BYTES = TILES * 16 * STEP * 2, X_BYTES = ROWS * STEP * 2, STAGE_BYTES = W_BYTES + X_BYTES;
// Dynamic shared memory: STAGES * STAGE_BYTES.
extern __shared__ uint4 dynamic_shared[];

struct Input {
  const bf16 *x;
  int rows, width;
};

__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_kernel_after_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void block_sync() {
  if (WARPS == 1) __syncwarp();
  else __syncthreads();
}

// weight_row(tile, r): the output that row r of a tile stands for. finish(tile, row, low, high): outputs r = lane / 4 and r + 8 of
// row `row` of x.
template <typename WeightRow, typename Finish>
__device__ __forceinline__ void few_rows(const Input &in, const bf16 *w, int outputs, WeightRow weight_row, Finish finish) {
  const u32 shared = shared_address_of(dynamic_shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, copier = threadIdx.x - (THREADS - COPIERS);
  const int steps = in.width / STEP;
  const bool computes = warp < COMPUTING, copies = copier >= 0;
  constexpr int W_UNITS = TILES * 16 * STEP_UNITS, W_OWN = (W_UNITS + COPIERS - 1) / COPIERS;
  constexpr int X_UNITS = ROWS * STEP_UNITS, X_OWN = (X_UNITS + COPIERS - 1) / COPIERS;
  const bf16 *from[W_OWN];
#pragma unroll
  for (int i = 0; i < W_OWN; i++) {
    const int n = i * COPIERS + (copies ? copier : 0), row = n / STEP_UNITS;
    const int output = weight_row(blockIdx.x * TILES + row / 16, row % 16);
    from[i] = w + (i64)min(output, outputs - 1) * in.width + n % STEP_UNITS * 8;
  }
  const auto copy_w = [&](int step) {
    if (step >= steps) return;
    const u32 stage = shared + step % STAGES * STAGE_BYTES;
#pragma unroll
    for (int i = 0; i < W_OWN; i++) {
      const int n = i * COPIERS + copier;
      if (W_UNITS % COPIERS == 0 || n < W_UNITS)
        copy_async(unit_at<STEP_UNITS>(stage, n / STEP_UNITS, n % STEP_UNITS), from[i] + step * STEP, true);
    }
  };
  const auto copy_x = [&](int step) {
    if (step >= steps) return;
    const u32 stage = shared + step % STAGES * STAGE_BYTES + W_BYTES;
#pragma unroll
    for (int i = 0; i < X_OWN; i++) {
      const int n = i * COPIERS + copier, row = n / STEP_UNITS;
      if (X_UNITS % COPIERS == 0 || n < X_UNITS)
        copy_async(unit_at<STEP_UNITS>(stage, row, n % STEP_UNITS),
                   in.x + (i64)min(row, in.rows - 1) * in.width + n % STEP_UNITS * 8 + step * STEP, row < in.rows);
    }
  };

  let_kernel_after_begin();
  if (copies)
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) copy_w(step);
  wait_for_kernel_before();
  if (copies)
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
      copy_x(step);
      copy_commit();
    }

  const int tile = warp / SPLIT, group = warp % SPLIT * OWN;
  float sums[OWN][4];
#pragma unroll
  for (int n = 0; n < OWN; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[n][i] = 0;

  for (int step = 0; step < steps; step++) {
    if (copies) copy_wait<STAGES - 2>();
    block_sync();
    if (copies) {
      copy_w(step + STAGES - 1);
      copy_x(step + STAGES - 1);
      copy_commit();
    }
    if (!computes) continue;
    const u32 stage = shared + step % STAGES * STAGE_BYTES, x = stage + W_BYTES;
    // All operands first: a product that waits for its own would hold up those behind it.
    u32 left[STEP / 16][4], right[STEP / 16][OWN == 1 ? 2 : OWN * 2];
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
      ldmatrix(left[k], unit_at<STEP_UNITS>(stage, tile * 16 + lane % 16, 2 * k + lane / 16));
      u32 part[4];
      if (OWN == 1 && k % 2 == 0) { // two steps of one group
        ldmatrix(part, unit_at<STEP_UNITS>(x, 8 * group + lane % 8, 2 * k + lane / 8));
#pragma unroll
        for (int i = 0; i < 4; i++) right[k + i / 2][i % 2] = part[i];
      }
      if (OWN > 1)
#pragma unroll
        for (int n = 0; n < OWN / 2; n++) { // one step of two groups
          ldmatrix(part, unit_at<STEP_UNITS>(x, 8 * (group + 2 * n) + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
          for (int i = 0; i < 4; i++) right[k][4 * n + i] = part[i];
        }
    }
#pragma unroll
    for (int k = 0; k < STEP / 16; k++)
#pragma unroll
      for (int n = 0; n < OWN; n++) mma(sums[n], left[k], right[k][2 * n], right[k][2 * n + 1]);
  }
  if (!computes) return;
#pragma unroll
  for (int n = 0; n < OWN; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int row = 8 * (group + n) + lane % 4 * 2 + e;
      if (row < in.rows) finish(blockIdx.x * TILES + tile, row, sums[n][e], sums[n][2 + e]);
    }
}

__device__ __forceinline__ float rounded(float x) { return to_float(from_float<bf16>(x)); }

// y = x·wᵀ (+ bias) (+ residual)
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_plain(const bf16 *x, const bf16 *w, const bf16 *bias, const bf16 *residual, bf16 *y, int rows,
               int outputs, int width) {
  few_rows({x, rows, width}, w, outputs, [](int tile, int r) { return tile * 16 + r; },
           [&](int tile, int row, float low, float high) {
#pragma unroll
             for (int half = 0; half < 2; half++) {
               const int output = tile * 16 + threadIdx.x % 32 / 4 + 8 * half;
               if (output >= outputs) continue;
               float sum = half ? high : low;
               if (bias) sum = __fadd_rn(sum, to_float(bias[output]));
               if (residual) sum = __fadd_rn(sum, to_float(residual[(i64)row * outputs + output]));
               y[(i64)row * outputs + output] = from_float<bf16>(sum);
             }
           });
}

// y [rows, half] = silu(gate)·up, of w [gate | up] with `half` outputs each
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_swiglu(const bf16 *x, const bf16 *w, bf16 *y, int rows, int half, int width) {
  few_rows({x, rows, width}, w, 2 * half, [&](int tile, int r) { return tile * 8 + r % 8 + r / 8 * half; },
           [&](int tile, int row, float gate, float up) {
             const int output = tile * 8 + threadIdx.x % 32 / 4;
             if (output < half) y[(i64)row * half + output] = from_float<bf16>(gated(rounded(gate), rounded(up)));
           });
}
