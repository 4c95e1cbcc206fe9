// Products of up to 8 rows by a weight matrix, for decoding: the time goes into reading the weights. y [rows, outputs] =
// x [rows, width] · w [outputs, width] transposed, with what surrounds it in a layer. width is a multiple of STEP.
//
// An element is summed along the width by tensor-core steps of 16 in order, in one accumulator, as cuBLASLt's kernels and those of
// linearLogprobHopper.cu do: it has the bits of the product over many rows.
//
// A block has TILES tiles of 16 outputs, a warp each; the warps beyond those copy, or all where there are none. Weights, and unless
// NORM x, pass through STAGES buffers of STEP columns. Weights do not depend on the kernel before, so reading them begins while it
// ends.
#include "formulas.cuh"
#include "mma.cuh"

#ifndef TILES
#define TILES 4
#define WARPS 4
#define STEP 64
#define STAGES 6
#define NORM 1 // x is normalized first, by the whole block; then it stays in shared memory
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif

constexpr int ROWS = 8, THREADS = 32 * WARPS, STEP_UNITS = STEP / 8;
constexpr int COPIERS = 32 * (WARPS > TILES ? WARPS - TILES : WARPS);
constexpr int W_BYTES = TILES * 16 * STEP * 2, X_BYTES = NORM ? 0 : ROWS * STEP * 2, STAGE_BYTES = W_BYTES + X_BYTES;
// Dynamic shared memory: STAGES * STAGE_BYTES, and with NORM ROWS * width * 2.
extern __shared__ uint4 dynamic_shared[];

struct Input {
  const bf16 *x;
  const bf16 *norm; // its weight
  float eps;
  int rows, width;
};

__device__ __forceinline__ void block_sync() {
  if (WARPS == 1) __syncwarp();
  else __syncthreads();
}

// The normalized rows of x, zeros for rows there are not. A warp has a row; the order of additions is that of rmsNorm.cu with 32
// threads a row and packs of 8.
__device__ __forceinline__ void normalize(u32 shared, const Input &in) {
  const int lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < ROWS; row += WARPS) {
    const bool there = row < in.rows;
    const bf16 *x = in.x + (i64)row * in.width;
    float sum = 0;
    if (there)
#pragma unroll 8
      for (int at = lane * 8; at < in.width; at += 256) {
        const Pack<bf16> pack = *(const Pack<bf16> *)(x + at);
#pragma unroll
        for (int j = 0; j < 8; j++) sum = fmaf(to_float(pack.at[j]), to_float(pack.at[j]), sum);
      }
    const float scale = rms_scale(warp_sum(sum), in.width, in.eps);
#pragma unroll 8
    for (int at = lane * 8; at < in.width; at += 256) {
      Pack<bf16> out = {};
      if (there) {
        const Pack<bf16> pack = *(const Pack<bf16> *)(x + at), weight = *(const Pack<bf16> *)(in.norm + at);
#pragma unroll
        for (int j = 0; j < 8; j++) out.at[j] = from_float<bf16>(scaled(to_float(pack.at[j]), scale, to_float(weight.at[j])));
      }
      const u32 to = shared + (row * (in.width / 8) + (at / 8 ^ row & 7)) * 16;
      const uint4 bits = *(const uint4 *)&out;
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w) : "memory");
    }
  }
}

// What a warp multiplies in one step.
struct Operands {
  u32 left[STEP / 16][4], right[STEP / 16][2];
};

// weight_row(tile, r): the output that row r of a tile stands for. finish(tile, row, low, high): outputs r = lane / 4 and r + 8 of
// row `row` of x.
template <typename WeightRow, typename Finish>
__device__ __forceinline__ void few_rows(const Input &in, const bf16 *w, int outputs, WeightRow weight_row, Finish finish) {
  const u32 shared = shared_address_of(dynamic_shared), resident = shared + STAGES * STAGE_BYTES;
  const int tile = threadIdx.x / 32, lane = threadIdx.x % 32, copier = threadIdx.x - (THREADS - COPIERS);
  const int steps = in.width / STEP;
  const bool computes = tile < TILES, copies = copier >= 0;
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
    if (NORM || step >= steps) return;
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
    for (int step = 0; step < STAGES - 1; step++) {
      copy_w(step);
      if (NORM) copy_commit();
    }
  wait_for_kernel_before();
  if (NORM) normalize(resident, in);
  else if (copies)
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
      copy_x(step);
      copy_commit();
    }

  // Waits for a step's columns and has those copied that take the place of the step before, which is in registers by now.
  const auto next = [&](int step) {
    if (copies) copy_wait<STAGES - 2>();
    block_sync();
    if (copies) {
      copy_w(step + STAGES - 1);
      copy_x(step + STAGES - 1);
      copy_commit();
    }
  };
  const auto load = [&](Operands &to, int step) {
    if (!computes) return;
    const u32 stage = shared + step % STAGES * STAGE_BYTES;
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
      ldmatrix(to.left[k], unit_at<STEP_UNITS>(stage, tile * 16 + lane % 16, 2 * k + lane / 16));
      if (k % 2 == 1) continue;
      u32 two[4]; // steps k and k + 1
      const int row = lane % 8, unit = 2 * k + lane / 8;
      ldmatrix(two, NORM ? resident + (row * (in.width / 8) + (step * STEP_UNITS + unit ^ row)) * 16
                         : unit_at<STEP_UNITS>(stage + W_BYTES, row, unit));
#pragma unroll
      for (int i = 0; i < 4; i++) to.right[k + i / 2][i % 2] = two[i];
    }
  };
  float sums[4] = {0, 0, 0, 0};
  const auto multiply = [&](const Operands &by) {
    if (!computes) return;
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) mma(sums, by.left[k], by.right[k][0], by.right[k][1]);
  };
  // Each product waits for the one before: the next step's operands come meanwhile.
  Operands even, odd;
  for (int step = 0; step < steps; step += 2) {
    next(step);
    load(even, step);
    if (step > 0) multiply(odd);
    if (step + 1 < steps) {
      next(step + 1);
      load(odd, step + 1);
    }
    multiply(even);
  }
  if (steps % 2 == 0) multiply(odd);
  if (!computes) return;
#pragma unroll
  for (int e = 0; e < 2; e++) {
    const int row = lane % 4 * 2 + e;
    if (row < in.rows) finish(blockIdx.x * TILES + tile, row, sums[e], sums[2 + e]);
  }
}

__device__ __forceinline__ float rounded(float x) { return to_float(from_float<bf16>(x)); }

// y = x·wᵀ (+ bias) (+ residual); without NORM
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_plain(const bf16 *x, const bf16 *w, const bf16 *bias, const bf16 *residual, bf16 *y, int rows, int outputs, int width) {
  few_rows({x, nullptr, 0, rows, width}, w, outputs, [](int tile, int r) { return tile * 16 + r; },
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

// y [rows, half] = silu(gate)·up, of x normalized · w [gate | up] with `half` outputs each; with NORM
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_swiglu(const bf16 *x, const bf16 *norm, float eps, const bf16 *w, bf16 *y, int rows, int half, int width) {
  few_rows({x, norm, eps, rows, width}, w, 2 * half, [&](int tile, int r) { return tile * 8 + r % 8 + r / 8 * half; },
           [&](int tile, int row, float gate, float up) {
             const int output = tile * 8 + threadIdx.x % 32 / 4;
             if (output < half) y[(i64)row * half + output] = from_float<bf16>(gated(rounded(gate), rounded(up)));
           });
}

// Queries, keys and values: x normalized · w [heads + 2 kvHeads heads of HEAD_DIM] (+ bias), queries and keys turned by the angles of
// positions [rows] in tables of `known` rows (NaN outside). Queries go into y [rows, (heads + 2 kvHeads) HEAD_DIM], keys and values
// into rows `at` of the cache [.., 2 kvHeads HEAD_DIM], nowhere for -1. With NORM.
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_qkv(const bf16 *x, const bf16 *norm, float eps, const bf16 *w, const bf16 *bias, const int *positions, const float *cosines,
             const float *sines, int known, const int *at, bf16 *y, bf16 *cache, int rows, int heads, int kvHeads, int width) {
  constexpr int PER_HEAD = HEAD_DIM / 16, HALF = HEAD_DIM / 2;
  const int all = heads + 2 * kvHeads;
  const auto output_of = [](int tile, int r) { return tile / PER_HEAD * HEAD_DIM + tile % PER_HEAD * 8 + r % 8 + r / 8 * HALF; };
  few_rows({x, norm, eps, rows, width}, w, all * HEAD_DIM, output_of, [&](int tile, int row, float low, float high) {
    const int head = tile / PER_HEAD, output = output_of(tile, threadIdx.x % 32 / 4);
    if (head >= all) return;
    if (bias) {
      low = __fadd_rn(low, to_float(bias[output]));
      high = __fadd_rn(high, to_float(bias[output + HALF]));
    }
    low = rounded(low), high = rounded(high);
    if (head < heads + kvHeads) {
      const int position = positions[row];
      const bool there = position >= 0 && position < known;
      const i64 angle = (i64)(there ? position : 0) * HALF + output % HEAD_DIM;
      rotate(low, high, there ? cosines[angle] : __int_as_float(0x7fffffff), sines[angle]);
    }
    if (head >= heads && at[row] < 0) return;
    bf16 *to = head < heads ? y + (i64)row * all * HEAD_DIM + output
                            : cache + (i64)at[row] * 2 * kvHeads * HEAD_DIM + (output - heads * HEAD_DIM);
    to[0] = from_float<bf16>(low);
    to[HALF] = from_float<bf16>(high);
  });
}
