// RMS norm of rows. Each thread owns the same columns of every row.
#include "common.cuh"
#include "formulas.cuh"
#include "overlap.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define VEC 8
#define THREADS 256
#define ROWS 1
#define PACKS 1
#endif
#ifndef EARLY // whether the weight is read along with x
#define EARLY 1
#endif

typedef DTYPE T;

typedef Pack<T, VEC> Packed;

// y = x·rstd·weight, rstd = 1/sqrt(mean(x²) + eps); x, y [rows, width], rstd [rows]. THREADS threads have a row, ROWS rows a block.
extern "C" __global__ void __launch_bounds__(THREADS * ROWS)
rms_norm(const T *x, const T *weight, T *y, float *rstd, int rows, int width, float eps) {
  __shared__ float scratch[32];
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int thread = threadIdx.x % THREADS;
  const i64 row = (i64)blockIdx.x * ROWS + threadIdx.x / THREADS;
  if (ROWS > 1 && row >= rows) return;
  x += row * width;
  y += row * width;
  // Early, the weight is read along with x: behind a store to y, for all the compiler knows, each of its packs waits for the last. That
  // takes registers which many rows have better use for.
  Packed held[PACKS], weights[EARLY ? PACKS : 1];
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int at = (p * THREADS + thread) * VEC;
    if (at < width) held[p] = *(const Packed *)(x + at);
  }
#if EARLY
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int at = (p * THREADS + thread) * VEC;
    if (at < width) weights[p] = *(const Packed *)(weight + at);
  }
#endif
  float sum = 0;
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    if ((p * THREADS + thread) * VEC >= width) continue;
#pragma unroll
    for (int j = 0; j < VEC; j++) {
      const float value = to_float(held[p].at[j]);
      sum = fmaf(value, value, sum);
    }
  }
  const float scale = rms_scale(block_sum<THREADS>(sum, scratch), width, eps);
  if (thread == 0) rstd[row] = scale;
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    const int at = (p * THREADS + thread) * VEC;
    if (at >= width) continue;
    const Packed own = EARLY ? weights[EARLY ? p : 0] : *(const Packed *)(weight + at);
    Packed out;
#pragma unroll
    for (int j = 0; j < VEC; j++) out.at[j] = from_float<T>(scaled(to_float(held[p].at[j]), scale, to_float(own.at[j])));
    *(Packed *)(y + at) = out;
  }
}
