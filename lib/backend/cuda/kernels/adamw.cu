// AdamW over all parameters of an optimizer in one launch, and the sum of squares of all gradients. The work is cut into
// chunks of CHUNK elements; a block finds the tensor that its chunk belongs to.
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#endif

typedef DTYPE T;

#define CHUNK 8192
#define THREADS 256

struct Slot {
  T *param; // 0 where the master is the parameter itself
  float *master;
  const float *grad;
  float *m;
  float *v;
  i64 size;
  i64 first; // number of its first chunk
};

// The last slot whose first chunk is not after `chunk`. Each warp looks at 32 places at a time: two rounds for 1024 tensors.
template <typename S> __device__ __forceinline__ S find_slot(const S *slots, int count, i64 chunk) {
  int low = 0, stride = 1;
  while (stride * 32 < count) stride *= 32;
  for (; stride > 0; stride /= 32) {
    const int at = low + (int)(threadIdx.x % 32) * stride;
    low += (__popc(__ballot_sync(0xffffffffu, at < count && slots[at].first <= chunk)) - 1) * stride;
  }
  return slots[low];
}

// rest = 1 − beta, from the host's f64. w ← keep·w − step_size·m / (√v·correction + eps): see optim/adamw.ts.
extern "C" __global__ void __launch_bounds__(THREADS)
adamw(const Slot *slots, int count, float grad_scale, float beta1, float rest1, float beta2, float rest2,
      float step_size, float correction, float eps, float keep) {
  const Slot slot = find_slot(slots, count, blockIdx.x);
  const i64 start = (blockIdx.x - slot.first) * CHUNK;
  const i64 end = min(slot.size, start + CHUNK);
  for (i64 i = start + threadIdx.x * 4; i < end; i += THREADS * 4) {
    if (i + 4 <= end) {
      float4 g = __ldcs((const float4 *)(slot.grad + i)), w = *(float4 *)(slot.master + i);
      float4 m = *(float4 *)(slot.m + i), v = *(float4 *)(slot.v + i);
      float *gs = &g.x, *ws = &w.x, *ms = &m.x, *vs = &v.x;
      Pack<T, 4> rounded;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float gi = gs[j] * grad_scale;
        ms[j] = beta1 * ms[j] + rest1 * gi;
        vs[j] = beta2 * vs[j] + rest2 * gi * gi;
        ws[j] = keep * ws[j] - step_size * ms[j] / (sqrtf(vs[j]) * correction + eps);
        rounded.at[j] = from_float<T>(ws[j]);
      }
      *(float4 *)(slot.master + i) = w;
      *(float4 *)(slot.m + i) = m;
      *(float4 *)(slot.v + i) = v;
      if (slot.param) *(Pack<T, 4> *)(slot.param + i) = rounded;
    } else {
      for (i64 j = i; j < end; j++) {
        float gi = slot.grad[j] * grad_scale;
        float m = slot.m[j] = beta1 * slot.m[j] + rest1 * gi;
        float v = slot.v[j] = beta2 * slot.v[j] + rest2 * gi * gi;
        float w = slot.master[j] = keep * slot.master[j] - step_size * m / (sqrtf(v) * correction + eps);
        if (slot.param) slot.param[j] = from_float<T>(w);
      }
    }
  }
}

struct Piece {
  const float *values;
  i64 size;
  i64 first;
};

// partial[chunk] = Σ values² of the chunk, in a fixed order.
extern "C" __global__ void __launch_bounds__(THREADS) sum_squares(const Piece *pieces, int count, float *partial) {
  __shared__ float scratch[32];
  const Piece piece = find_slot(pieces, count, blockIdx.x);
  const i64 start = (blockIdx.x - piece.first) * CHUNK;
  const i64 end = min(piece.size, start + CHUNK);
  float sum = 0;
  for (i64 i = start + threadIdx.x * 4; i < end; i += THREADS * 4) {
    if (i + 4 <= end) {
      float4 x = *(const float4 *)(piece.values + i);
      sum += (x.x * x.x + x.y * x.y) + (x.z * x.z + x.w * x.w);
    } else {
      for (i64 j = i; j < end; j++) sum = fmaf(piece.values[j], piece.values[j], sum);
    }
  }
  sum = block_sum<THREADS>(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block: out = Σ partial, in f64.
extern "C" __global__ void __launch_bounds__(THREADS) add_partials(const float *partial, i64 count, float *out) {
  __shared__ double sums[THREADS];
  double sum = 0;
  for (i64 i = threadIdx.x; i < count; i += THREADS) sum += partial[i];
  sums[threadIdx.x] = sum;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *out = (float)sums[0];
}
