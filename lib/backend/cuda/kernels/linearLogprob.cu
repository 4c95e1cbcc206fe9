// Log-probability and entropy from logits that exist only in chunks [rows, columns] of f32, and the gradient of a chunk.
// The vocabulary is cut at fixed columns and the chunks of a row are merged in order, so that a row's result does not
// depend on the rows around it.
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#endif

typedef DTYPE T;

#define THREADS 256
#define infinity __int_as_float(0x7f800000)

// What is known of a row after some chunks: m = max z, Σ e^(z−m), Σ e^(z−m)·(z−m), and the target's z.
// Merges a chunk z [rows, pitch] of the vocabulary's columns `from` … `from`+`columns`−1 into state [rows, 4].
extern "C" __global__ void __launch_bounds__(THREADS)
logprob_chunk(const float *z, const int *targets, float4 *state, int columns, i64 pitch, int from) {
  __shared__ float scratch[32];
  const i64 row = blockIdx.x;
  z += row * pitch;
  float best = -infinity;
  for (int j = threadIdx.x * 4; j < columns; j += THREADS * 4) {
    if (j + 4 <= columns) {
      float4 v = *(const float4 *)(z + j);
      best = fmaxf(fmaxf(best, fmaxf(v.x, v.y)), fmaxf(v.z, v.w));
    } else {
      for (int i = j; i < columns; i++) best = fmaxf(best, z[i]);
    }
  }
  best = block_max<THREADS>(best, scratch);
  float sum = 0, weighted = 0;
  for (int j = threadIdx.x * 4; j < columns; j += THREADS * 4) {
    if (j + 4 <= columns) {
      float4 v = *(const float4 *)(z + j);
      const float *vs = &v.x;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float d = vs[i] - best, e = __expf(d);
        sum += e;
        weighted = fmaf(e, d, weighted);
      }
    } else {
      for (int i = j; i < columns; i++) {
        float d = z[i] - best, e = __expf(d);
        sum += e;
        weighted = fmaf(e, d, weighted);
      }
    }
  }
  sum = block_sum<THREADS>(sum, scratch);
  weighted = block_sum<THREADS>(weighted, scratch);
  if (threadIdx.x == 0) {
    const int target = targets[row] - from;
    float4 s = from == 0 ? make_float4(-infinity, 0, 0, __int_as_float(0x7fffffff)) : state[row];
    if (target >= 0 && target < columns) s.w = z[target];
    const float m = fmaxf(s.x, best);
    const float d0 = s.x - m, d1 = best - m;
    const float e0 = from == 0 ? 0 : expf(d0), e1 = expf(d1);
    // Σ e^(z−m)·(z−m) of a part moves to the common maximum by its own sum.
    const float w0 = from == 0 ? 0 : e0 * (s.z + s.y * d0), w1 = e1 * (weighted + sum * d1);
    state[row] = make_float4(m, s.y * e0 + sum * e1, w0 + w1, s.w);
  }
}

extern "C" __global__ void logprob_finish(const float4 *state, float *logprobs, float *entropy, float *lse, int rows) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float4 s = state[row];
  const float log_sum = logf(s.y);
  lse[row] = s.x + log_sum;
  logprobs[row] = s.w - s.x - log_sum;
  entropy[row] = log_sum - s.z / s.y;
}

// dz [rows, dz_pitch] = scale·(−p·(dlogprob + dentropy·(log p + entropy)) + 1[target]·dlogprob) for a chunk of z.
extern "C" __global__ void __launch_bounds__(THREADS)
logprob_backward(const float *z, const int *targets, const float *dlogprobs, const float *dentropy,
                 const float *entropy, const float *lse, T *dz, int columns, i64 pitch, i64 dz_pitch, int from,
                 float scale) {
  const i64 row = blockIdx.x;
  z += row * pitch;
  dz += row * dz_pitch;
  const float dl = dlogprobs[row] * scale, de = dentropy[row] * scale, h = entropy[row], log_sum = lse[row];
  const int target = targets[row] - from;
  for (int j = threadIdx.x * 4; j < columns; j += THREADS * 4) {
    if (j + 4 <= columns) {
      float4 v = *(const float4 *)(z + j);
      const float *vs = &v.x;
      Pack<T, 4> out;
#pragma unroll
      for (int c = 0; c < 4; c++) {
        float logp = vs[c] - log_sum;
        float d = -__expf(logp) * (dl + de * (logp + h));
        out.at[c] = from_float<T>(j + c == target ? d + dl : d);
      }
      *(Pack<T, 4> *)(dz + j) = out;
    } else {
      for (int c = j; c < columns; c++) {
        float logp = z[c] - log_sum;
        float d = -__expf(logp) * (dl + de * (logp + h));
        dz[c] = from_float<T>(c == target ? d + dl : d);
      }
    }
  }
}

// to = from, rounded; four elements a thread.
extern "C" __global__ void __launch_bounds__(THREADS) round_to(const float *from, T *to, i64 count) {
  const i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * 4;
  for (i64 j = i; j < min(i + 4, count); j++) to[j] = from_float<T>(from[j]);
}
