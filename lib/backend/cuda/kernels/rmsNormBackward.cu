// Gradient of the RMS norm of rows. Each thread owns the same columns of every row. Apart from rmsNorm.cu, which is compiled for
// rows in 32 threads: ptxas 13.0 does not come to an end over this kernel with 7 or 8 packs in each of those.
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define VEC 8
#define THREADS 256
#define PACKS 1
#endif

typedef DTYPE T;

typedef Pack<T, VEC> Packed;

// What a thread reads of one row for the gradient.
struct Row {
  Packed gradient[PACKS], value[PACKS], past[PACKS];
  float scale;
};

__device__ __forceinline__ void load_row(Row &row, const T *dy, const T *x, const T *residual, const float *rstd, int at_row,
                                         int width) {
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int column = (p * THREADS + threadIdx.x) * VEC;
    const i64 at = (i64)at_row * width + column;
    if (column >= width) continue;
    row.gradient[p] = *(const Packed *)(dy + at);
    row.value[p] = *(const Packed *)(x + at);
    if (residual) row.past[p] = *(const Packed *)(residual + at);
  }
  row.scale = rstd[at_row];
}

// dx = rstd·(dy·w − x·rstd²·mean(dy·w·x)) (+ residual). A block takes the rows of one chunk in order, reading the next one while it
// adds up, and leaves Σ dy·x·rstd of them in partial [chunks, width].
extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_backward(const T *dy, const T *x, const T *weight, const float *rstd, const T *residual, T *dx, float *partial,
                  int rows, int width, int chunk) {
  __shared__ float scratch[32];
  float sums[PACKS][VEC];
  Packed w[PACKS];
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int at = (p * THREADS + threadIdx.x) * VEC;
    if (at < width) w[p] = *(const Packed *)(weight + at);
#pragma unroll
    for (int j = 0; j < VEC; j++) sums[p][j] = 0;
  }
  const int first = blockIdx.x * chunk, last = min(rows, first + chunk);
  Row next;
  load_row(next, dy, x, residual, rstd, first, width);
  for (int row = first; row < last; row++) {
    const Row here = next;
    if (row + 1 < last) load_row(next, dy, x, residual, rstd, row + 1, width);
    const float scale = here.scale;
    float dot = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      if ((p * THREADS + threadIdx.x) * VEC >= width) continue;
#pragma unroll
      for (int j = 0; j < VEC; j++) {
        const float g = to_float(here.gradient[p].at[j]), v = to_float(here.value[p].at[j]);
        dot = fmaf(g * to_float(w[p].at[j]), v, dot);
        sums[p][j] = fmaf(g * scale, v, sums[p][j]);
      }
    }
    const float pull = block_sum<THREADS>(dot, scratch) * scale * scale * scale / width;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      const int at = (p * THREADS + threadIdx.x) * VEC;
      if (at >= width) continue;
      Packed out;
#pragma unroll
      for (int j = 0; j < VEC; j++) {
        const float g = to_float(here.gradient[p].at[j]), v = to_float(here.value[p].at[j]);
        const float own = g * to_float(w[p].at[j]) * scale - v * pull;
        out.at[j] = from_float<T>(residual ? own + to_float(here.past[p].at[j]) : own);
      }
      *(Packed *)(dx + (i64)row * width + at) = out;
    }
  }
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int at = (p * THREADS + threadIdx.x) * VEC;
    if (at >= width) continue;
    Pack<float, VEC> out;
#pragma unroll
    for (int j = 0; j < VEC; j++) out.at[j] = sums[p][j];
    *(Pack<float, VEC> *)(partial + (i64)blockIdx.x * width + at) = out;
  }
}

// Sums of the columns of partial [chunks, width]: 32 threads share a column, then their parts are added in order.
extern "C" __global__ void __launch_bounds__(1024) add_chunks(const float *partial, T *out, int chunks, int width) {
  __shared__ float parts[32][33];
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const int column = blockIdx.x * 32 + lane;
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int chunk = part; chunk < chunks; chunk += 32) sum += partial[(i64)chunk * width + column];
  }
  parts[part][lane] = sum;
  __syncthreads();
  if (part == 0 && column < width) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < 32; i++) total += parts[i][lane];
    out[column] = from_float<T>(total);
  }
}
