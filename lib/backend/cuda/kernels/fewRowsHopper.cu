// Products of up to 8 rows by a weight matrix, for decoding: the time goes into reading the weights. y [rows, outputs] =
// x [rows, width] · w [outputs, width] transposed, with what surrounds it in a layer. width is a multiple of 64 BOXES.
//
// An element is summed along the width by tensor-core steps of 16 in order, in one accumulator, as cuBLASLt's kernels and those of
// linearLogprobHopper.cu do: it has the bits of the product over many rows.
//
// A block has TILES tiles of 16 outputs. A warp has the copy engine bring their weights, and unless NORM x, through STAGES buffers of
// BOXES boxes of 64 columns: at least two buffers, unless one holds all. Warpgroups multiply 64 outputs each by all rows of x; wgmma,
// since every step waits for the one before and mma.sync takes longer. Of 64 outputs those past the block's are whatever lies there; nothing
// comes of them. The outputs follow each other in memory, or (HALVES = 2) are as many of two halves that lie
// apart: gate and up, or the halves of a head that turn into each other; a thread has both sums then. Weights do not depend on the
// kernel before, so reading them begins while it ends.
#include "formulas.cuh"
#include "wgmma.cuh"
#include "mma.cuh"

#ifndef TILES
#define TILES 4
#define BOXES 1
#define STAGES 6
#define PACKS 8 // with NORM: width / 256, rounded up
#define NORM 1 // x is normalized first, by the whole block; then it stays in shared memory
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif

constexpr int ROWS = 8, BOX = 64, BOX_ROW = BOX * 2, HALVES = NORM ? 2 : 1, OUTPUTS = 16 * TILES / HALVES; // of a half
constexpr int WARPGROUPS = (OUTPUTS + 63) / 64, THREADS = 128 * WARPGROUPS + 32;
constexpr int HALF_BYTES = OUTPUTS * BOX_ROW, W_BYTES = HALVES * HALF_BYTES, X_BYTES = ROWS * BOX_ROW;
[[maybe_unused]] constexpr int PACE = 24; // bytes of weights a clock, as measured best; the memory gives a multiprocessor about 19
[[maybe_unused]] constexpr int STAGE_BYTES = BOXES * (W_BYTES + (NORM ? 0 : X_BYTES));
// Dynamic shared memory: STAGES * STAGE_BYTES, then what is more of ROWS * width * 2 with NORM and of what 64 WARPGROUPS rows of the last
// stage's last half take past its end, and 1024 for alignment.
extern __shared__ uint4 dynamic_shared[];

struct Input {
  const bf16 *x;
  const bf16 *norm; // its weight
  float eps;
  int rows, width;
};

// A warp's part of one row of x or of the norm's weight.
struct Part {
  Pack<bf16> at[PACKS];
};

__device__ __forceinline__ void load_part(Part &to, const bf16 *from, int width) {
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int at = p * 256 + threadIdx.x % 32 * 8;
    if (at < width) to.at[p] = *(const Pack<bf16> *)(from + at);
  }
}

// The normalized rows of x, zeros for rows there are not. A warp has a row, the first row the last of those that multiply, which has
// no outputs where they are few; the order of additions is that of rmsNorm.cu with 32 threads a row and packs of 8.
__device__ __forceinline__ void normalize(u32 shared, const Input &in, const Part &weight) {
  constexpr int WARPS = THREADS / 32;
  for (int row = (2 * WARPS - 2 - threadIdx.x / 32) % WARPS; row < ROWS; row += WARPS) {
    const bool there = row < in.rows;
    Part x;
    float sum = 0, scale = 0;
    if (there) {
      load_part(x, in.x + (i64)row * in.width, in.width);
#pragma unroll
      for (int p = 0; p < PACKS; p++) {
        if (p * 256 + threadIdx.x % 32 * 8 >= in.width) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) sum = fmaf(to_float(x.at[p].at[j]), to_float(x.at[p].at[j]), sum);
      }
      scale = rms_scale(warp_sum(sum), in.width, in.eps);
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      const int at = p * 256 + threadIdx.x % 32 * 8;
      if (at >= in.width) continue;
      Pack<bf16> out = {};
      if (there)
#pragma unroll
        for (int j = 0; j < 8; j++)
          out.at[j] = from_float<bf16>(scaled(to_float(x.at[p].at[j]), scale, to_float(weight.at[p].at[j])));
      const u32 to = unit_at<8>(shared + at / BOX * X_BYTES, row, at % BOX / 8);
      const uint4 bits = *(const uint4 *)&out;
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w) : "memory");
    }
  }
}

// Outputs of this thread, i = 0 and 1, from the first of the block's half or halves, and rows of x, e = 0 and 1.
__device__ __forceinline__ int own_output(int i) { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i; }
__device__ __forceinline__ int own_row(int e) { return threadIdx.x % 4 * 2 + e; }

// halves: the first outputs of the block's halves. begin(): starts loading what finish needs, once the kernel before has ended.
// finish(i, e, sums): the sums of own_output(i), in each half, for own_row(e).
template <typename Begin, typename Finish>
__device__ __forceinline__ void few_rows(const Input &in, const TensorMap &w_map, const TensorMap &x_map, const int (&halves)[2],
                                         Begin begin, Finish finish) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[2 * STAGES];
  const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
  const u32 shared = (shared_address(dynamic_shared) + 1023) / 1024 * 1024, resident = shared + STAGES * STAGE_BYTES;
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int steps = in.width / (BOX * BOXES);
  const bool brings = threadIdx.x == 128 * WARPGROUPS;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) barrier_init(full + 8 * stage, 1), barrier_init(empty + 8 * stage, 4 * WARPGROUPS);
    barrier_init_fence();
  }
  __syncthreads();
  const auto bring_w = [&](int step, int stage) {
    const u32 to = shared + stage * STAGE_BYTES, barrier = full + 8 * stage;
    barrier_expect(barrier, STAGE_BYTES);
#pragma unroll
    for (int half = 0; half < HALVES; half++) tma_load(to + half * BOXES * HALF_BYTES, w_map, 0, halves[half], step * BOXES, barrier);
  };
  const auto bring_x = [&](int step, int stage) {
#if !NORM
    tma_load(shared + stage * STAGE_BYTES + BOXES * W_BYTES, x_map, 0, 0, step * BOXES, full + 8 * stage);
#endif
  };

  let_kernel_after_begin();
  const int ahead = min(steps, STAGES);
  if (brings) {
    const Pace<PACE> pace;
#pragma unroll 1
    for (int step = 0; step < ahead; step++) {
      pace.wait(step * BOXES * W_BYTES);
      bring_w(step, step);
    }
  }
  Part weight;
  if (NORM) load_part(weight, in.norm, in.width);
  wait_for_kernel_before();
  if (threadIdx.x == 0) // not the one that brings weights, which may be held back
#pragma unroll 1
    for (int step = 0; step < ahead; step++) bring_x(step, step);
  const bool ends = 16 * warp < OUTPUTS; // else nothing comes of what this warp multiplies
  if (ends) begin();
  if (NORM) {
    normalize(resident, in, weight);
    fence_async_proxy();
    __syncthreads();
  }
  if (warp == 4 * WARPGROUPS) {
    if (brings) {
      int stage = 0;
      u32 parity = 0;
      for (int step = STAGES; step < steps; step++) {
        barrier_wait(empty + 8 * stage, parity);
        bring_w(step, stage);
        bring_x(step, stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
      }
    }
    return;
  }

  const u32 first = shared + warp / 4 * 64 * BOX_ROW;
  float sums[HALVES][4] = {};
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
      const u64 w = descriptor(first + stage * STAGE_BYTES + box * HALF_BYTES);
      const u64 x = descriptor(NORM ? resident + (step * BOXES + box) * X_BYTES
                                    : shared + stage * STAGE_BYTES + BOXES * W_BYTES + box * X_BYTES);
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int half = 0; half < HALVES; half++)
          wgmma_shared<0, 0>(sums[half], w + (half * BOXES * HALF_BYTES + k * 32 >> 4), x + (k * 32 >> 4), 1);
    }
    wgmma_commit();
    there = barrier_passed(full + 8 * next, parity);
    wgmma_wait<1>(); // of the step before
    if (lane == 0 && step > 0) barrier_arrive(empty + 8 * before);
    before = stage, stage = next;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int half = 0; half < HALVES; half++) hold(sums[half]);
  if (!ends) return;
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float own[HALVES];
#pragma unroll
      for (int half = 0; half < HALVES; half++) own[half] = sums[half][2 * i + e];
      if (own_output(i) < OUTPUTS && own_row(e) < in.rows) finish(i, e, own);
    }
#endif
}

#if !NORM
// y = x·wᵀ (+ bias) (+ residual)
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_plain(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, const bf16 *bias, const bf16 *residual, bf16 *y,
               int rows, int outputs, int width) {
  const int first = blockIdx.x * OUTPUTS, output[2] = {first + own_output(0), first + own_output(1)};
  bf16 added[2] = {}, past[2][2] = {};
  few_rows({nullptr, nullptr, 0, rows, width}, w, x, {first, 0},
           [&] {
#pragma unroll
             for (int i = 0; i < 2; i++) {
               if (output[i] >= outputs) continue;
               if (bias) added[i] = bias[output[i]];
#pragma unroll
               for (int e = 0; e < 2; e++)
                 if (residual && own_row(e) < rows) past[i][e] = residual[(i64)own_row(e) * outputs + output[i]];
             }
           },
           [&](int i, int e, const float (&sums)[HALVES]) {
             if (output[i] >= outputs) return;
             float sum = sums[0];
             if (bias) sum = __fadd_rn(sum, to_float(added[i]));
             if (residual) sum = __fadd_rn(sum, to_float(past[i][e]));
             y[(i64)own_row(e) * outputs + output[i]] = from_float<bf16>(sum);
           });
}

#else
// y [rows, half] = silu(gate)·up, of x normalized · w [gate | up] with `half` outputs each
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_swiglu(const __grid_constant__ TensorMap w, const bf16 *x, const bf16 *norm, float eps, bf16 *y, int rows, int half, int width) {
  const int first = blockIdx.x * OUTPUTS;
  few_rows({x, norm, eps, rows, width}, w, w, {first, half + first}, [] {},
           [&](int i, int e, const float (&sums)[HALVES]) {
             const int output = first + own_output(i);
             if (output < half) y[(i64)own_row(e) * half + output] = from_float<bf16>(gated(rounded(sums[0]), rounded(sums[1])));
           });
}

// Queries, keys and values: x normalized · w [heads + 2 kvHeads heads of HEAD_DIM] (+ bias), queries and keys turned by the angles of
// positions [rows] in tables of `known` rows (NaN outside). Queries go into y [rows, (heads + 2 kvHeads) HEAD_DIM], keys and values
// into rows `at` of the cache [cacheRows, 2 kvHeads HEAD_DIM], nowhere for -1. A block's outputs are of one head.
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_qkv(const __grid_constant__ TensorMap w, const bf16 *x, const bf16 *norm, float eps, const bf16 *bias, const int *positions,
             const float *cosines, const float *sines, int known, const int *at, bf16 *y, bf16 *cache, int cacheRows, int rows, int heads,
             int kvHeads, int width) {
  constexpr int HALF = HEAD_DIM / 2, BLOCKS = (HALF + OUTPUTS - 1) / OUTPUTS;
  const int head = blockIdx.x / BLOCKS, pair = blockIdx.x % BLOCKS * OUTPUTS, first = head * HEAD_DIM + pair;
  const int all = heads + 2 * kvHeads;
  bf16 added[2][2];
  float cosine[2][2], sine[2][2];
  int place[2];
  few_rows({x, norm, eps, rows, width}, w, w, {first, first + HALF},
           [&] {
             int position[2];
             bool there[2];
#pragma unroll
             for (int e = 0; e < 2; e++) {
               position[e] = own_row(e) < rows ? positions[own_row(e)] : 0;
               there[e] = position[e] >= 0 && position[e] < known;
               place[e] = own_row(e) < rows ? at[own_row(e)] : -1;
               check_index(place[e], -1, cacheRows);
             }
#pragma unroll
             for (int i = 0; i < 2; i++) {
               if (own_output(i) >= OUTPUTS) continue;
#pragma unroll
               for (int half = 0; half < 2; half++)
                 if (bias) added[i][half] = bias[first + own_output(i) + half * HALF];
#pragma unroll
               for (int e = 0; e < 2; e++) {
                 const i64 angle = (i64)(there[e] ? position[e] : 0) * HALF + pair + own_output(i);
                 cosine[i][e] = there[e] ? cosines[angle] : __int_as_float(0x7fffffff);
                 sine[i][e] = sines[angle];
               }
             }
           },
           [&](int i, int e, const float (&sums)[HALVES]) {
             float low = sums[0], high = sums[1];
             if (bias) low = __fadd_rn(low, to_float(added[i][0])), high = __fadd_rn(high, to_float(added[i][1]));
             low = rounded(low), high = rounded(high);
             if (head < heads + kvHeads) rotate(low, high, cosine[i][e], sine[i][e]);
             if (head >= heads && place[e] < 0) return;
             const int output = first + own_output(i);
             bf16 *to = head < heads ? y + (i64)own_row(e) * all * HEAD_DIM + output
                                     : cache + (i64)place[e] * 2 * kvHeads * HEAD_DIM + (output - heads * HEAD_DIM);
             to[0] = from_float<bf16>(low);
             to[HALF] = from_float<bf16>(high);
           });
}
#endif
