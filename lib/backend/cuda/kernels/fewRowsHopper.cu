// Products of up to 8 rows by a weight matrix, for decoding: the time goes into reading the weights. y [rows, outputs] =
// x [rows, width] · w [outputs, width] transposed, with what surrounds it in a layer. width is a multiple of 64.
//
// An element is summed along the width by tensor-core steps of 16 in order, in one accumulator, as cuBLASLt's kernels and those of
// linearLogprobHopper.cu do: it has the bits of the product over many rows.
//
// A block has TILES tiles of 16 outputs, a warp each, and a warp that has the copy engine bring weights, and unless NORM x, through
// STAGES buffers of BOXES boxes of 64 columns. A tile is 8 outputs of the block's first half and 8 of its second; in memory the
// halves follow each other, or lie apart (HALVES = 2: gate and up, or the halves of a head that turn into each other). Weights do
// not depend on the kernel before, so reading them begins while it ends.
#include "formulas.cuh"
#include "hopper.cuh"
#include "mma.cuh"

#ifndef TILES
#define TILES 4
#define BOXES 1
#define STAGES 6
#define AHEAD 4 // steps that come to the second-level cache before the kernel's turn, beyond those in the buffers
#define PACKS 8 // with NORM: width / 256, rounded up
#define NORM 1 // x is normalized first, by the whole block; then it stays in shared memory
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif

constexpr int ROWS = 8, THREADS = 32 * (TILES + 1), HALVES = NORM ? 2 : 1, BOX = 64;
constexpr int HALF_BYTES = TILES * 8 * BOX * 2, W_BYTES = 2 * HALF_BYTES, X_BYTES = NORM ? 0 : ROWS * BOX * 2;
constexpr int STAGE_BYTES = BOXES * (W_BYTES + X_BYTES);
// Dynamic shared memory: STAGES * STAGE_BYTES, with NORM ROWS * width * 2, and 1024 for alignment.
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

// The normalized rows of x, zeros for rows there are not. A warp has a row; the order of additions is that of rmsNorm.cu with 32
// threads a row and packs of 8.
__device__ __forceinline__ void normalize(u32 shared, const Input &in, const Part &weight) {
  for (int row = threadIdx.x / 32; row < ROWS; row += TILES + 1) {
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
      const u32 to = unit_at<8>(shared + at / BOX * ROWS * BOX * 2, row, at % BOX / 8);
      const uint4 bits = *(const uint4 *)&out;
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w) : "memory");
    }
  }
}

// What a warp multiplies of one box.
struct Operands {
  u32 left[4][4], right[4][2];
};

// halves: the first outputs of the block's two halves. begin(row of e = 0 and 1): loads what finish needs, once the kernel before has
// ended. finish(e, row, low, high): sums of outputs halves + 8 * tile + lane / 4, for row `row` of x.
template <typename Begin, typename Finish>
__device__ __forceinline__ void few_rows(const Input &in, const TensorMap &w_map, const TensorMap &x_map, const int (&halves)[2],
                                         Begin begin, Finish finish) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[2 * STAGES];
  const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
  const u32 shared = (shared_address(dynamic_shared) + 1023) / 1024 * 1024, resident = shared + STAGES * STAGE_BYTES;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, boxes = in.width / BOX, steps = (boxes + BOXES - 1) / BOXES;
  const bool brings = threadIdx.x == 32 * TILES, computes = warp < TILES;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) barrier_init(full + 8 * stage, 1), barrier_init(empty + 8 * stage, TILES);
    barrier_init_fence();
  }
  __syncthreads();
  const auto bring_w = [&](int step, int stage) {
    const u32 to = shared + stage * STAGE_BYTES, barrier = full + 8 * stage;
    barrier_expect(barrier, STAGE_BYTES);
#pragma unroll
    for (int box = 0; box < BOXES; box++)
#pragma unroll
      for (int half = 0; half < HALVES; half++)
        tma_load(to + box * W_BYTES + half * HALF_BYTES, w_map, (step * BOXES + box) * BOX, halves[half], barrier);
  };
  const auto bring_x = [&](int step, int stage) {
#if !NORM
#pragma unroll
    for (int box = 0; box < BOXES; box++)
      tma_load(shared + stage * STAGE_BYTES + BOXES * W_BYTES + box * X_BYTES, x_map, (step * BOXES + box) * BOX, 0, full + 8 * stage);
#endif
  };

  let_kernel_after_begin();
  const int ahead = min(steps, STAGES);
  if (brings) {
    for (int step = 0; step < ahead; step++) bring_w(step, step);
    for (int box = STAGES * BOXES; box < min(boxes, (STAGES + AHEAD) * BOXES); box++)
#pragma unroll
      for (int half = 0; half < HALVES; half++) tma_prefetch(w_map, box * BOX, halves[half]);
  }
  Part weight;
  if (NORM) load_part(weight, in.norm, in.width);
  wait_for_kernel_before();
  if (brings)
    for (int step = 0; step < ahead; step++) bring_x(step, step);
  if (NORM) {
    normalize(resident, in, weight);
    __syncthreads();
  }
  if (!computes) {
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

  const int row[2] = {lane % 4 * 2, lane % 4 * 2 + 1};
  begin(row);
  int stage = 0;
  u32 parity = 0;
  // Multiplies what is in registers of one box and has the next one, number `box`, come meanwhile: each product waits for the one
  // before.
  float sums[4] = {0, 0, 0, 0};
  const auto multiply = [&](const Operands &by, Operands &next, int box, bool first) {
    const int place = box % BOXES;
    const bool more = box < boxes;
    const u32 base = shared + stage * STAGE_BYTES, w = base + place * W_BYTES;
    const u32 x = NORM ? resident + box * ROWS * BOX * 2 : base + BOXES * W_BYTES + place * X_BYTES;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (!first) mma(sums, by.left[k], by.right[k][0], by.right[k][1]);
      if (!more) continue;
      if (k == 0 && place == 0) barrier_wait(full + 8 * stage, parity);
      ldmatrix(next.left[k], unit_at<8>(w, lane / 8 % 2 * 8 * TILES + 8 * warp + lane % 8, 2 * k + lane / 16));
      if (k % 2 == 1) continue;
      u32 two[4]; // steps k and k + 1
      ldmatrix(two, unit_at<8>(x, lane % 8, 2 * k + lane / 8));
#pragma unroll
      for (int i = 0; i < 4; i++) next.right[k + i / 2][i % 2] = two[i];
    }
    if (more && place == BOXES - 1) {
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + 8 * stage);
      if (++stage == STAGES) stage = 0, parity ^= 1;
    }
  };
  Operands even, odd;
  multiply(odd, even, 0, true);
  for (int box = 0; box < boxes; box += 2) {
    multiply(even, odd, box + 1, false);
    if (box + 1 < boxes) multiply(odd, even, box + 2, false);
  }
#pragma unroll
  for (int e = 0; e < 2; e++)
    if (row[e] < in.rows) finish(e, row[e], sums[e], sums[2 + e]);
#endif
}

__device__ __forceinline__ float rounded(float x) { return to_float(from_float<bf16>(x)); }
__device__ __forceinline__ int own_output() { return threadIdx.x / 32 * 8 + threadIdx.x % 32 / 4; }

// y = x·wᵀ (+ bias) (+ residual); without NORM
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_plain(const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap x, const bf16 *bias, const bf16 *residual, bf16 *y,
               int rows, int outputs, int width) {
  const int first = blockIdx.x * TILES * 16, output[2] = {first + own_output(), first + TILES * 8 + own_output()};
  float added[2] = {0, 0}, past[2][2] = {};
  few_rows({nullptr, nullptr, 0, rows, width}, w, x, {first, 0},
           [&](const int (&row)[2]) {
#pragma unroll
             for (int half = 0; half < 2; half++) {
               if (output[half] >= outputs) continue;
               if (bias) added[half] = to_float(bias[output[half]]);
#pragma unroll
               for (int e = 0; e < 2; e++)
                 if (residual && row[e] < rows) past[e][half] = to_float(residual[(i64)row[e] * outputs + output[half]]);
             }
           },
           [&](int e, int row, float low, float high) {
#pragma unroll
             for (int half = 0; half < 2; half++) {
               if (output[half] >= outputs) continue;
               float sum = half ? high : low;
               if (bias) sum = __fadd_rn(sum, added[half]);
               if (residual) sum = __fadd_rn(sum, past[e][half]);
               y[(i64)row * outputs + output[half]] = from_float<bf16>(sum);
             }
           });
}

// y [rows, half] = silu(gate)·up, of x normalized · w [gate | up] with `half` outputs each; with NORM
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_swiglu(const __grid_constant__ TensorMap w, const bf16 *x, const bf16 *norm, float eps, bf16 *y, int rows, int half, int width) {
  const int first = blockIdx.x * TILES * 8, output = first + own_output();
  few_rows({x, norm, eps, rows, width}, w, w, {first, half + first}, [](const int (&)[2]) {},
           [&](int, int row, float gate, float up) {
             if (output < half) y[(i64)row * half + output] = from_float<bf16>(gated(rounded(gate), rounded(up)));
           });
}

// Queries, keys and values: x normalized · w [heads + 2 kvHeads heads of HEAD_DIM] (+ bias), queries and keys turned by the angles of
// positions [rows] in tables of `known` rows (NaN outside). Queries go into y [rows, (heads + 2 kvHeads) HEAD_DIM], keys and values
// into rows `at` of the cache [cacheRows, 2 kvHeads HEAD_DIM], nowhere for -1. With NORM; a block's outputs are of one head.
extern "C" __global__ void __launch_bounds__(THREADS)
few_rows_qkv(const __grid_constant__ TensorMap w, const bf16 *x, const bf16 *norm, float eps, const bf16 *bias, const int *positions,
             const float *cosines, const float *sines, int known, const int *at, bf16 *y, bf16 *cache, int cacheRows, int rows, int heads,
             int kvHeads, int width) {
  constexpr int HALF = HEAD_DIM / 2, BLOCKS = (HALF + 8 * TILES - 1) / (8 * TILES);
  const int head = blockIdx.x / BLOCKS, pair = blockIdx.x % BLOCKS * 8 * TILES, j = pair + own_output();
  const int first = head * HEAD_DIM, all = heads + 2 * kvHeads, output = first + j;
  float added[2], cosine[2], sine[2];
  int place[2];
  few_rows({x, norm, eps, rows, width}, w, w, {first + pair, first + pair + HALF},
           [&](const int (&row)[2]) {
#pragma unroll
             for (int e = 0; e < 2; e++) {
               added[e] = bias ? to_float(bias[output + e * HALF]) : 0;
               const int position = row[e] < rows ? positions[row[e]] : 0;
               const bool there = position >= 0 && position < known;
               const i64 angle = (i64)(there ? position : 0) * HALF + j;
               cosine[e] = there ? cosines[angle] : __int_as_float(0x7fffffff);
               sine[e] = sines[angle];
               place[e] = row[e] < rows ? at[row[e]] : -1;
               check_index(place[e], -1, cacheRows);
             }
           },
           [&](int e, int row, float low, float high) {
             if (bias) low = __fadd_rn(low, added[0]), high = __fadd_rn(high, added[1]);
             low = rounded(low), high = rounded(high);
             if (head < heads + kvHeads) rotate(low, high, cosine[e], sine[e]);
             if (head >= heads && place[e] < 0) return;
             bf16 *to = head < heads ? y + (i64)row * all * HEAD_DIM + output
                                     : cache + (i64)place[e] * 2 * kvHeads * HEAD_DIM + (output - heads * HEAD_DIM);
             to[0] = from_float<bf16>(low);
             to[HALF] = from_float<bf16>(high);
           });
}
