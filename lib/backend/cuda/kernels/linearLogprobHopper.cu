// The head fused with its loss on Hopper's tensor cores: log-probability and entropy of hidden [tokens, width] against
// weight [vocabulary, width] without logits in memory, and the gradient of a range of logits.
//
// The result of a row depends on its hidden state and on the weights, never on the other rows, the tile or the grid. Arithmetic,
// in f32, every operation rounded once as written (c = inverseTemperature log2(e), rounded; exp2 is ex2.approx.ftz):
//
//   acc     hidden·weight by tensor-core steps of 16 in order along the width, the first without accumulator (steps past the
//           width add zeros)
//   chunk   columns [256 i, 256 (i + 1)), those past the vocabulary at acc = -1e30
//           m = max(acc) * c;  d = fma(acc, c, -m);  p = exp2(d);  the target's y = acc * c
//           lane t = 0..3 takes columns {8 j + 2 t + e}, j = 0..31 in order, from 0: s(e) = s(e) + p;  w(e) = fma(p, d, w(e))
//           s(t) = s(e = 0) + s(e = 1);  s = (s(0) + s(1)) + (s(2) + s(3));  w likewise
//   merge   M = max m;  slice k = 0..7 takes chunks k, k + 8, ... in order, from 0:
//           g = m - M;  a = exp2(g);  S(k) = fma(s, a, S(k));  W(k) = fma(fma(s, g, w), a, W(k))
//           S = S(0) + S(1) + ... in order, W likewise;  L = log2f(S)
//   end     logprob = ((y - M) - L) * ln 2;  lse = (M + L) * ln 2;  entropy = (L - W / S) * ln 2
//
// Shape: a block has two computing warpgroups, each with 64 rows by 256 columns in registers, and a producer warp. Blocks go in
// pairs (clusters) that take 256 rows; each fetches half of their common weights for both.
#include "wgmma.cuh"

constexpr int ROWS = 128, COLUMNS = 256, STEP = 64, STAGES = 4;
constexpr int HIDDEN_BYTES = ROWS * STEP * 2, STAGE_BYTES = HIDDEN_BYTES + COLUMNS * STEP * 2;
constexpr int STAGING_BYTES = 64 * 64 * 2; // backward: two buffers for each warpgroup
// Dynamic shared memory: STAGES STAGE_BYTES + 128 (barriers) + 1024 (alignment) bytes; backward 4 STAGING_BYTES more.
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

__device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }

struct Problem {
  int tokens, from, count, width, group; // columns [from, from + count) of the vocabulary
  __device__ __forceinline__ int pairs() const { return (tokens + 2 * ROWS - 1) / (2 * ROWS); }
  __device__ __forceinline__ int chunks() const { return (count + COLUMNS - 1) / COLUMNS; }
  __device__ __forceinline__ int units() const { return pairs() * chunks(); }
  __device__ __forceinline__ int steps() const { return (width + STEP - 1) / STEP; }
};

// A block's share of a unit, which is 256 rows by 256 columns. Units go down `group` pairs of tiles, then to the next columns, so
// that blocks that run together share both operands in the second-level cache.
struct Unit {
  int row, chunk;
  __device__ __forceinline__ Unit(int unit, int rank, const Problem &problem) {
    const int first = unit / (problem.group * problem.chunks()) * problem.group, local = unit - first * problem.chunks();
    const int size = min_of(problem.pairs() - first, problem.group);
    row = ((first + local % size) * 2 + rank) * ROWS;
    chunk = local / size;
  }
};

// Stages filled and freed in turn. A full barrier takes one arrival and the copies' bytes, an empty one an arrival of each
// computing warp of the cluster.
struct Pipeline {
  u32 shared, barriers;
  int stage = 0, parity = 0;
  __device__ __forceinline__ u32 hidden() const { return shared + stage * STAGE_BYTES; }
  __device__ __forceinline__ u32 weight() const { return hidden() + HIDDEN_BYTES; }
  __device__ __forceinline__ u32 full() const { return barriers + 8 * stage; }
  __device__ __forceinline__ u32 empty() const { return barriers + 8 * (STAGES + stage); }
  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

__device__ __forceinline__ void produce(const TensorMap &hidden, const TensorMap &weight, const Problem &problem, int rank, Pipeline pipe) {
  constexpr int PART = COLUMNS / 2; // of the weights' rows
#pragma unroll 1
  for (int unit = blockIdx.x / 2; unit < problem.units(); unit += gridDim.x / 2) {
    const Unit at(unit, rank, problem);
    const int row = problem.from + at.chunk * COLUMNS + rank * PART;
#pragma unroll 1
    for (int k = 0; k < problem.steps(); k++, pipe.advance()) {
      barrier_wait(pipe.empty(), pipe.parity ^ 1);
      barrier_expect(pipe.full(), STAGE_BYTES);
      tma_load(pipe.hidden(), hidden, k * STEP, at.row, pipe.full());
      tma_load_multicast(pipe.weight() + rank * PART * STEP * 2, weight, k * STEP, row, pipe.full(), 3);
    }
  }
}

// All tiles of a warpgroup.
template <typename Epilogue>
__device__ __forceinline__ void consume(const Problem &problem, int rank, int warpgroup, Pipeline pipe, Epilogue &epilogue) {
  const int lane = threadIdx.x % 32, steps = problem.steps();
  Pipeline used = pipe; // the next to be freed
  const auto release = [&] { // to the producers of both blocks
    if (lane < 2) barrier_arrive_remote(used.empty(), lane);
    used.advance();
  };
  float acc[COLUMNS / 2];
  const auto multiply = [&](int accumulate) {
    barrier_wait(pipe.full(), pipe.parity);
    const u64 a = descriptor(pipe.hidden() + warpgroup * 64 * 128), b = descriptor(pipe.weight());
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < STEP / 16; i++) wgmma_shared<0, 0>(acc, a + (i * 32 >> 4), b + (i * 32 >> 4), i > 0 ? 1 : accumulate);
    wgmma_commit();
    pipe.advance();
  };
#pragma unroll 1
  for (int unit = blockIdx.x / 2; unit < problem.units(); unit += gridDim.x / 2) {
    multiply(0);
    const Unit at(unit, rank, problem); // beside the first products
    epilogue.begin(at, at.row + 64 * warpgroup);
#pragma unroll 1
    for (int k = 1; k < steps; k++) {
      multiply(1);
      wgmma_wait<1>();
      release();
    }
    wgmma_wait<0>();
    hold(acc);
    release();
    epilogue.finish(acc);
  }
}

__device__ __forceinline__ float quad_sum(float x) {
  x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Writes (m, s, w) of the chunk's rows into parts [chunks, 3, tokens], and targets' y where their column lies in the chunk.
struct Reduce {
  const Problem &problem;
  const int *targets;
  float *parts, *y;
  float c;
  int row, chunk, target[2]; // of this thread's first row and of 8 on; targets relative to this lane's first column

  __device__ __forceinline__ void begin(const Unit &at, int firstRow) {
    row = firstRow + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
    chunk = at.chunk;
#pragma unroll
    for (int half = 0; half < 2; half++)
      target[half] = row + 8 * half < problem.tokens ? targets[row + 8 * half] - chunk * COLUMNS - (int)threadIdx.x % 4 * 2 : -1;
  }
  __device__ __forceinline__ void finish(float (&acc)[COLUMNS / 2]) {
    const int t = threadIdx.x % 4, left = problem.count - chunk * COLUMNS - 2 * t; // columns that exist, from this lane's first
    if (left + 2 * t < COLUMNS) {
#pragma unroll
      for (int i = 0; i < COLUMNS / 2; i++)
        if (i / 4 * 8 + i % 2 >= left) acc[i] = -1e30f;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int own = target[half]; // 8 j or 8 j + 1 if it is this lane's
      if (own < 0 || own >= min_of(left, COLUMNS) || own % 8 > 1) continue;
      float found = 0;
#pragma unroll
      for (int i = 0; i < COLUMNS / 4; i++)
        if (own == i / 2 * 8 + i % 2) found = acc[i / 2 * 4 + 2 * half + i % 2];
      y[row + 8 * half] = __fmul_rn(found, c);
    }
    float m[2], s[2][2] = {}, w[2][2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float a = acc[2 * half], b = acc[2 * half + 1];
#pragma unroll
      for (int j = 1; j < COLUMNS / 8; j++) {
        a = fmaxf(a, acc[4 * j + 2 * half]);
        b = fmaxf(b, acc[4 * j + 2 * half + 1]);
      }
      m[half] = fmaxf(a, b);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      m[half] = fmaxf(m[half], __shfl_xor_sync(0xffffffffu, m[half], 1));
      m[half] = __fmul_rn(fmaxf(m[half], __shfl_xor_sync(0xffffffffu, m[half], 2)), c);
    }
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) {
      const int half = i / 2 % 2, e = i % 2;
      const float d = __fmaf_rn(acc[i], c, -m[half]), p = exp2_fast(d);
      s[half][e] = __fadd_rn(s[half][e], p);
      w[half][e] = __fmaf_rn(p, d, w[half][e]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float sum = quad_sum(__fadd_rn(s[half][0], s[half][1])), weighted = quad_sum(__fadd_rn(w[half][0], w[half][1]));
      if (t > 0 || row + 8 * half >= problem.tokens) continue;
      float *part = parts + (i64)chunk * 3 * problem.tokens + row + 8 * half;
      part[0] = m[half];
      part[problem.tokens] = sum;
      part[2 * (i64)problem.tokens] = weighted;
    }
  }
};

// Rounds the gradient of 64 columns at a time to bf16 and copies it out by TMA through one of the warpgroup's two buffers.
struct Differentiate {
  const Problem &problem;
  const TensorMap &dz;
  const int *targets;
  const float *dLogprobs, *dEntropy, *entropy, *lse;
  float inverseTemperature, c;
  u32 staging;
  int row, column, target[2];
  float log2Sum[2], slope[2], offset[2], gain[2]; // dz = p * fma(log2 p, slope, offset) + 1[target] * gain

  __device__ __forceinline__ void begin(const Unit &at, int firstRow) {
    row = firstRow;
    column = at.chunk * COLUMNS;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int i = min_of(row + (int)threadIdx.x / 32 % 4 * 16 + (int)threadIdx.x % 32 / 4 + 8 * half, problem.tokens - 1);
      const float de = dEntropy[i] * inverseTemperature;
      gain[half] = dLogprobs[i] * inverseTemperature;
      log2Sum[half] = lse[i] * LOG2E;
      slope[half] = -de * LN2;
      offset[half] = -fmaf(de, entropy[i], gain[half]);
      target[half] = targets[i] - problem.from - column - (int)threadIdx.x % 4 * 2;
    }
  }
  __device__ __forceinline__ float gradient(float acc, int half, float add) const {
    const float logp = __fmaf_rn(acc, c, -log2Sum[half]);
    return __fmaf_rn(exp2_fast(logp), __fmaf_rn(logp, slope[half], offset[half]), add);
  }
  __device__ __forceinline__ void finish(float (&acc)[COLUMNS / 2]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, warpgroup = threadIdx.x / 128;
#pragma unroll
    for (int slab = 0; slab < COLUMNS / 64; slab++) {
      const u32 buffer = staging + slab % 2 * STAGING_BYTES;
      u32 packed[16]; // of the 8 columns i / 2 and half i % 2
#pragma unroll
      for (int i = 0; i < 16; i++)
        packed[i] = pack_bf16(gradient(acc[32 * slab + 2 * i], i % 2, 0), gradient(acc[32 * slab + 2 * i + 1], i % 2, 0));
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int own = target[half] - 64 * slab; // 8 j or 8 j + 1 if it is this lane's
        if (own < 0 || own >= 64 || own % 8 > 1) continue;
#pragma unroll
        for (int i = 0; i < 16; i++)
          if (own == i / 2 * 8 + i % 2) {
            const u32 d = pack_bf16(gradient(acc[32 * slab + i / 2 * 4 + 2 * half + i % 2], half, gain[half]), 0);
            u32 &pair = packed[i / 2 * 2 + half];
            pair = i % 2 ? pair & 0xffff | d << 16 : pair & 0xffff0000 | d;
          }
      }
      if (threadIdx.x % 128 == 0) tma_store_wait<1>(); // the buffer's last copy has been read
      named_sync(1 + warpgroup, 128);
      const u32 at = buffer + (warp * 16 + lane % 16) * 128;
#pragma unroll
      for (int j = 0; j < 8; j += 2)
        store_matrices(at + ((j + lane / 16 ^ lane % 8) << 4), packed[2 * j], packed[2 * j + 1], packed[2 * j + 2], packed[2 * j + 3]);
      fence_async_proxy();
      named_sync(1 + warpgroup, 128);
      if (threadIdx.x % 128 == 0) tma_store(dz, column + 64 * slab, row, buffer);
    }
  }
};

// Sets barriers up and gives the producing and the computing warps their roles.
template <typename Epilogue>
__device__ __forceinline__ void run(const TensorMap &hidden, const TensorMap &weight, const Problem &problem, u32 shared, u32 barriers,
                                    Epilogue &epilogue) {
  const int rank = cluster_rank();
  const Pipeline pipe{shared, barriers};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(barriers + 8 * stage, 1);
      barrier_init(barriers + 8 * (STAGES + stage), 16);
    }
    barrier_init_fence();
  }
  cluster_sync();
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  if (warp >= 8) {
    registers_give<24>();
    if (threadIdx.x == 256) produce(hidden, weight, problem, rank, pipe);
  } else {
    registers_take<240>();
    consume(problem, rank, warp / 4, pipe, epilogue);
  }
  __syncwarp();
  cluster_sync(); // a block's shared memory stays while the other may reach it
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LAUNCH_BOUNDS __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
#else
#define LAUNCH_BOUNDS __launch_bounds__(384, 1)
#endif

// Parts of all chunks, and y [tokens]; a target outside the vocabulary gets no y. Grid: 2 * min(multiprocessors / 2, ceil(tokens / 256)
// * chunks) blocks of 384 threads. The maps' boxes are 64 columns by 128 rows, with the 128-byte swizzle, zeros out of bounds; width is
// a multiple of 8, the inverse temperature positive, `group` (pairs of row tiles that share columns) best 8.
extern "C" __global__ void LAUNCH_BOUNDS
    linear_logprob_hopper(const __grid_constant__ TensorMap hidden, const __grid_constant__ TensorMap weight, const int *targets,
                          float *parts, float *y, int tokens, int vocabulary, int width, int group, float inverseTemperature) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char unaligned[];
  const u32 shared = shared_address(unaligned) + 1023 & ~1023u;
  const Problem problem{tokens, 0, vocabulary, width, group};
  Reduce epilogue{problem, targets, parts, y, __fmul_rn(inverseTemperature, LOG2E)};
  run(hidden, weight, problem, shared, shared + STAGES * STAGE_BYTES, epilogue);
#endif
}

// dz [tokens, count] = scale * (-p * (dLogprob + dEntropy * (log p + entropy)) + 1[target] * dLogprob) for columns [from, from + count),
// where scale is the inverse temperature, rounded to bf16. The map of dz has `count` columns, boxes of 64 by 64 and the 128-byte swizzle;
// TMA writes 16 bytes at a time, so up to 7 columns past `count` within the pitch. Grid and other maps as above, of `count` columns.
extern "C" __global__ void LAUNCH_BOUNDS
    linear_logprob_backward_hopper(const __grid_constant__ TensorMap hidden, const __grid_constant__ TensorMap weight,
                                   const __grid_constant__ TensorMap dz, const int *targets, const float *dLogprobs, const float *dEntropy,
                                   const float *entropy, const float *lse, int tokens, int from, int count, int width, int group,
                                   float inverseTemperature) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char unaligned[];
  const u32 shared = shared_address(unaligned) + 1023 & ~1023u, staging = shared + STAGES * STAGE_BYTES;
  const Problem problem{tokens, from, count, width, group};
  Differentiate epilogue{problem, dz, targets, dLogprobs, dEntropy, entropy, lse, inverseTemperature, __fmul_rn(inverseTemperature, LOG2E),
                         staging + threadIdx.x / 128 % 2 * 2 * STAGING_BYTES};
  run(hidden, weight, problem, shared, staging + 4 * STAGING_BYTES, epilogue);
  tma_store_wait<0>();
#endif
}

// Merges parts [chunks, 3, tokens]. Grid: ceil(tokens / 32) blocks of 256 threads: 32 rows by 8 slices of the chunks.
extern "C" __global__ void __launch_bounds__(256)
    linear_logprob_merge(const float *parts, const float *y, const int *targets, float *logprobs, float *entropy, float *lse, int tokens,
                         int vocabulary) {
  __shared__ float sums[2][8][32];
  const int lane = threadIdx.x % 32, slice = threadIdx.x / 32, row = blockIdx.x * 32 + lane;
  const int chunks = (vocabulary + COLUMNS - 1) / COLUMNS;
  const i64 pitch = 3 * (i64)tokens;
  const float *part = parts + (row < tokens ? row : tokens - 1);
  float top = part[0];
#pragma unroll 4
  for (int i = slice; i < chunks; i += 8) top = fmaxf(top, part[i * pitch]);
  sums[0][slice][lane] = top;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < 8; k++) top = fmaxf(top, sums[0][k][lane]);
  __syncthreads();
  float s = 0, w = 0;
#pragma unroll 4
  for (int i = slice; i < chunks; i += 8) {
    const float *at = part + i * pitch;
    const float gap = __fsub_rn(at[0], top), a = exp2_fast(gap), sum = at[tokens];
    s = __fmaf_rn(sum, a, s);
    w = __fmaf_rn(__fmaf_rn(sum, gap, at[2 * (i64)tokens]), a, w);
  }
  sums[0][slice][lane] = s;
  sums[1][slice][lane] = w;
  __syncthreads();
  if (slice > 0 || row >= tokens) return;
#pragma unroll
  for (int k = 1; k < 8; k++) {
    s = __fadd_rn(s, sums[0][k][lane]);
    w = __fadd_rn(w, sums[1][k][lane]);
  }
  const float log_sum = log2f(s);
  const bool known = (u32)targets[row] < (u32)vocabulary;
  logprobs[row] = known ? __fmul_rn(__fsub_rn(__fsub_rn(y[row], top), log_sum), LN2) : __int_as_float(0x7fffffff);
  lse[row] = __fmul_rn(__fadd_rn(top, log_sum), LN2);
  entropy[row] = __fmul_rn(__fsub_rn(log_sum, __fdiv_rn(w, s)), LN2);
}
