// Rows of a matrix by index; index −1 stands for no row.
#include "common.cuh"
#include "overlap.cuh"

#ifndef WORD
#define WORD uint4
#define INDEX u32
#endif
#ifndef DTYPE
#define DTYPE bf16
#define OUT float
#define INTO 1
#define VEC 8
#define PACKS 2
#endif

typedef WORD Word;
typedef INDEX Index;

// y[i] = x[index[i]], zeros where that is −1; x [rows, width], y [size / width, width] in words.
extern "C" __global__ void __launch_bounds__(256)
gather_rows(const Word *x, const int *index, Word *y, Index size, Index width, int rows) {
  wait_for_kernel_before();
  for (Index i = (Index)blockIdx.x * 256 + threadIdx.x; i < size; i += (Index)gridDim.x * 256) {
    const Index row = i / width;
    const int from = index[row];
    check_index(from, -1, rows);
    Word word = {};
    if (from >= 0) word = x[(u64)from * width + (i - row * width)];
    y[i] = word;
  }
}

// target[index[i]] = x[i]; target [rows, width], x [size / width, width] in words.
extern "C" __global__ void __launch_bounds__(256)
set_rows(Word *target, const int *index, const Word *x, Index size, Index width, int rows) {
  wait_for_kernel_before();
  for (Index i = (Index)blockIdx.x * 256 + threadIdx.x; i < size; i += (Index)gridDim.x * 256) {
    const Index row = i / width;
    const int to = index[row];
    check_index(to, -1, rows);
    if (to >= 0) target[(u64)to * width + (i - row * width)] = x[i];
  }
}

typedef DTYPE T;

// Integers are summed as such.
__device__ __forceinline__ int to_sum(int x) { return x; }
template <typename T> __device__ __forceinline__ float to_sum(T x) { return to_float(x); }
template <typename T> __device__ __forceinline__ T from_sum(int sum) { return sum; }
template <typename T> __device__ __forceinline__ T from_sum(float sum) { return from_float<T>(sum); }
typedef decltype(to_sum(T())) Sum;

const int THREADS = 256, WARPS = THREADS / 32, TILE = 4 * THREADS;

// y[index[i]] += x[i], in the order of i, floats in f32, rounded once; x [n, columns], y [rows, columns]. Rows that no index names are
// left alone; with INTO the sum is added to what y holds. Block i does the work for all that share the index of row i if it is the
// first of them; blockIdx.y counts pieces of THREADS × VEC × PACKS columns.
extern "C" __global__ void __launch_bounds__(THREADS)
scatter_rows(const T *x, const int *index, OUT *y, int n, int columns, int rows) {
  typedef Pack<T, VEC> Packed;
  constexpr int WIDE = VEC * sizeof(OUT) > 16 ? 16 / sizeof(OUT) : VEC;
  const int first = blockIdx.x, row = index[first];
  check_index(row, -1, rows);
  if (row < 0) return;
  for (int base = 0; base < first; base += TILE) {
    bool earlier = false;
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const int i = base + u * THREADS + threadIdx.x;
      if (i < first) earlier |= index[i] == row;
    }
    if (__syncthreads_or(earlier)) return;
  }

  __shared__ int found[TILE], counts[WARPS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int at[PACKS];
  Sum sums[PACKS][VEC];
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    at[p] = ((blockIdx.y * PACKS + p) * THREADS + threadIdx.x) * VEC;
#pragma unroll
    for (int j = 0; j < VEC; j++) sums[p][j] = 0;
  }
  for (int base = first; base < n; base += TILE) {
    // The rows of this tile that share the index, in order: each warp looks through 128.
    u32 hits[4];
    int mine = 0;
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const int i = base + warp * 128 + u * 32 + lane;
      hits[u] = __ballot_sync(0xffffffffu, i < n && index[i] == row);
      mine += __popc(hits[u]);
    }
    if (lane == 0) counts[warp] = mine;
    __syncthreads();
    int total = 0, before = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      if (w == warp) before = total;
      total += counts[w];
    }
#pragma unroll
    for (int u = 0; u < 4; u++) {
      if (hits[u] >> lane & 1) found[before + __popc(hits[u] & ((1u << lane) - 1))] = base + warp * 128 + u * 32 + lane;
      before += __popc(hits[u]);
    }
    __syncthreads();
    for (int h = 0; h < total; h += 4) {
#pragma unroll
      for (int p = 0; p < PACKS; p++) {
        if (at[p] >= columns) continue;
        Packed held[4];
#pragma unroll
        for (int u = 0; u < 4; u++)
          if (h + u < total) held[u] = *(const Packed *)(x + (i64)found[h + u] * columns + at[p]);
#pragma unroll
        for (int u = 0; u < 4; u++)
          if (h + u < total)
#pragma unroll
            for (int j = 0; j < VEC; j++) sums[p][j] += to_sum(held[u].at[j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    if (at[p] >= columns) continue;
#pragma unroll
    for (int part = 0; part < VEC; part += WIDE) {
      Pack<OUT, WIDE> *target = (Pack<OUT, WIDE> *)(y + (i64)row * columns + at[p] + part);
      Pack<OUT, WIDE> out;
      if (INTO) out = *target;
#pragma unroll
      for (int j = 0; j < WIDE; j++) out.at[j] = from_sum<OUT>(INTO ? to_sum(out.at[j]) + sums[p][part + j] : sums[p][part + j]);
      *target = out;
    }
  }
}
