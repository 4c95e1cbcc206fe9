// RMS norm of rows, and its gradient. A block has one row at a time; each thread owns the same columns of every row.
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define VEC 8
#define THREADS 256
#define PACKS 1
#endif

typedef DTYPE T;

typedef Pack<T, VEC> Packed;

// y = x·rstd·weight, rstd = 1/sqrt(mean(x²) + eps); x, y [rows, width], rstd [rows].
extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm(const T *x, const T *weight, T *y, float *rstd, int width, float eps) {
  __shared__ float scratch[32];
  const i64 row = blockIdx.x;
  x += row * width;
  y += row * width;
  Packed held[PACKS];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    int at = (p * THREADS + threadIdx.x) * VEC;
    if (at < width) {
      held[p] = *(const Packed *)(x + at);
#pragma unroll
      for (int j = 0; j < VEC; j++) {
        float value = to_float(held[p].at[j]);
        sum = fmaf(value, value, sum);
      }
    }
  }
  float scale = 1.0f / sqrtf(block_sum<THREADS>(sum, scratch) / width + eps);
  if (threadIdx.x == 0) rstd[row] = scale;
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    int at = (p * THREADS + threadIdx.x) * VEC;
    if (at < width) {
      Packed w = *(const Packed *)(weight + at), out;
#pragma unroll
      for (int j = 0; j < VEC; j++) out.at[j] = from_float<T>(to_float(held[p].at[j]) * scale * to_float(w.at[j]));
      *(Packed *)(y + at) = out;
    }
  }
}

// dx = rstd·(dy·w − x·rstd²·mean(dy·w·x)) (+ residual). A block takes the rows of one chunk in order and leaves Σ dy·x·rstd of them in
// partial [chunks, width].
extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_backward(const T *dy, const T *x, const T *weight, const float *rstd, const T *residual, T *dx, float *partial,
                  int rows, int width, int chunk) {
  __shared__ float scratch[32];
  float sums[PACKS][VEC];
  Packed w[PACKS];
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    int at = (p * THREADS + threadIdx.x) * VEC;
    if (at < width) w[p] = *(const Packed *)(weight + at);
#pragma unroll
    for (int j = 0; j < VEC; j++) sums[p][j] = 0;
  }
  const int first = blockIdx.x * chunk, last = min(rows, first + chunk);
  for (int row = first; row < last; row++) {
    const i64 start = (i64)row * width;
    const float scale = rstd[row];
    Packed gradient[PACKS], value[PACKS];
    float dot = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      int at = (p * THREADS + threadIdx.x) * VEC;
      if (at < width) {
        gradient[p] = *(const Packed *)(dy + start + at);
        value[p] = *(const Packed *)(x + start + at);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
          float g = to_float(gradient[p].at[j]), v = to_float(value[p].at[j]);
          dot = fmaf(g * to_float(w[p].at[j]), v, dot);
          sums[p][j] = fmaf(g * scale, v, sums[p][j]);
        }
      }
    }
    const float pull = block_sum<THREADS>(dot, scratch) * scale * scale * scale / width;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      int at = (p * THREADS + threadIdx.x) * VEC;
      if (at < width) {
        Packed out, past;
        if (residual) past = *(const Packed *)(residual + start + at);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
          float g = to_float(gradient[p].at[j]), v = to_float(value[p].at[j]);
          float own = g * to_float(w[p].at[j]) * scale - v * pull;
          out.at[j] = from_float<T>(residual ? own + to_float(past.at[j]) : own);
        }
        *(Packed *)(dx + start + at) = out;
      }
    }
  }
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    int at = (p * THREADS + threadIdx.x) * VEC;
    if (at < width)
      for (int j = 0; j < VEC; j++) partial[(i64)blockIdx.x * width + at + j] = sums[p][j];
  }
}

// Sums of the columns of partial [chunks, width]: eight threads share a column, then their parts are added in order.
extern "C" __global__ void __launch_bounds__(256) add_chunks(const float *partial, T *out, int chunks, int width) {
  __shared__ float parts[8][33];
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const int column = blockIdx.x * 32 + lane;
  float sum = 0;
  if (column < width)
    for (int chunk = part; chunk < chunks; chunk += 8) sum += partial[(i64)chunk * width + column];
  parts[part][lane] = sum;
  __syncthreads();
  if (part == 0 && column < width) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) total += parts[i][lane];
    out[column] = from_float<T>(total);
  }
}
