// RMS norm of every query and key head inside fused projection rows, and its gradient. A warp has one head at a time; lane
// l owns the elements l, l + 32, … of every head.
#include "common.cuh"
#include "overlap.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define HEAD_DIM 128
#endif

typedef DTYPE T;

#define PER_LANE ((HEAD_DIM + 31) / 32)
#define WARPS 8

// x, y [tokens, width] with width = (heads + 2·kv_heads)·HEAD_DIM; rstd [tokens, heads + kv_heads].
extern "C" __global__ void __launch_bounds__(32 * WARPS)
qk_norm(const T *x, const T *q, const T *k, T *y, float *rstd, int tokens, int heads, int kv_heads, float eps) {
  wait_for_kernel_before();
  const int lane = threadIdx.x % 32, all = heads + 2 * kv_heads, normed = heads + kv_heads;
  const i64 item = (i64)blockIdx.x * WARPS + threadIdx.x / 32;
  if (item >= (i64)tokens * all) return;
  const i64 token = item / all;
  const int head = item % all;
  const i64 at = item * HEAD_DIM;
  float values[PER_LANE], sum = 0;
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    int j = i * 32 + lane;
    values[i] = j < HEAD_DIM ? to_float(x[at + j]) : 0;
    sum = fmaf(values[i], values[i], sum);
  }
  if (head >= normed) {
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
      if (i * 32 + lane < HEAD_DIM) y[at + i * 32 + lane] = x[at + i * 32 + lane];
    return;
  }
  const float scale = 1.0f / sqrtf(warp_sum(sum) / HEAD_DIM + eps);
  const T *weight = head < heads ? q : k;
  if (lane == 0) rstd[token * normed + head] = scale;
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    int j = i * 32 + lane;
    if (j < HEAD_DIM) y[at + j] = from_float<T>(values[i] * scale * to_float(weight[j]));
  }
}

// A block takes the tokens of one chunk; partial [chunks, 2·HEAD_DIM] holds the sums for the weights of q, then of k.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
qk_norm_backward(const T *dy, const T *x, const T *q, const T *k, const float *rstd, T *dx, float *partial, int tokens,
                 int heads, int kv_heads, int chunk) {
  __shared__ float parts[WARPS][2 * PER_LANE * 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, all = heads + 2 * kv_heads, normed = heads + kv_heads;
  float dq[PER_LANE], dk[PER_LANE];
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) dq[i] = dk[i] = 0;
  const i64 first = (i64)blockIdx.x * chunk * all;
  const i64 last = min((i64)tokens, (i64)(blockIdx.x + 1) * chunk) * all;
  for (i64 item = first + warp; item < last; item += WARPS) {
    const int head = item % all;
    const i64 at = item * HEAD_DIM;
    if (head >= normed) {
#pragma unroll
      for (int i = 0; i < PER_LANE; i++)
        if (i * 32 + lane < HEAD_DIM) dx[at + i * 32 + lane] = dy[at + i * 32 + lane];
      continue;
    }
    const float scale = rstd[item / all * normed + head];
    const T *weight = head < heads ? q : k;
    float g[PER_LANE], v[PER_LANE], dot = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      int j = i * 32 + lane;
      bool there = j < HEAD_DIM;
      float gradient = there ? to_float(dy[at + j]) : 0;
      v[i] = there ? to_float(x[at + j]) : 0;
      g[i] = there ? gradient * to_float(weight[j]) : 0;
      dot = fmaf(g[i], v[i], dot);
      float product = gradient * scale * v[i];
      if (head < heads) dq[i] += product;
      else dk[i] += product;
    }
    const float pull = warp_sum(dot) * scale * scale * scale / HEAD_DIM;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
      if (i * 32 + lane < HEAD_DIM) dx[at + i * 32 + lane] = from_float<T>(g[i] * scale - v[i] * pull);
  }
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    parts[warp][i * 32 + lane] = dq[i];
    parts[warp][PER_LANE * 32 + i * 32 + lane] = dk[i];
  }
  __syncthreads();
  for (int j = threadIdx.x; j < 2 * HEAD_DIM; j += 32 * WARPS) {
    int from = j < HEAD_DIM ? j : PER_LANE * 32 + j - HEAD_DIM;
    float total = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) total += parts[i][from];
    partial[(i64)blockIdx.x * 2 * HEAD_DIM + j] = total;
  }
}
