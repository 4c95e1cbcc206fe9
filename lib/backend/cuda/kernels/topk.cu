// The k largest of each row, the lower index first among equals. An element becomes a key that holds its value and its index
// and orders as they do, so that no two are equal; 0 is no element. A block finds the k largest keys of up to CHUNK: where a row
// is longer, the keys found in its parts are the input of another launch.
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define FIRST 1
#define LAST 1
#define SORTED 1024
#endif

typedef DTYPE T;

const int THREADS = 1024, EACH = 8, CHUNK = THREADS * EACH;

// NaN is largest; −0 equals 0.
__device__ __forceinline__ u64 key_of(T x, u32 index) {
  const float value = to_float(x);
  u32 bits = __float_as_uint(value);
  if (value == 0) bits = 0;
  bits = value != value ? 0xffffffffu : bits >> 31 ? ~bits : bits | 0x80000000u;
  return (u64)bits << 32 | (u32)~index;
}

#if FIRST
typedef T In;
#else
typedef u64 In;
#endif

// in [rows, length] is x or keys. Leaves keys [rows, parts, k] in any order, or with LAST, where parts is 1, values and indices
// [rows, k] in order, the values taken from x [rows, columns]. SORTED is a power of two ≥ k.
extern "C" __global__ void __launch_bounds__(THREADS)
top_k(const In *in, u64 *keys, const T *x, T *values, int *indices, int length, int parts, int columns, int k) {
  __shared__ u32 histogram[256], total[2];
  __shared__ u64 chosen[SORTED];
  const i64 row = blockIdx.x / parts;
  const int begin = (blockIdx.x - row * parts) * CHUNK;
  u64 held[EACH];
#pragma unroll
  for (int e = 0; e < EACH; e++) {
    const int at = begin + e * THREADS + threadIdx.x;
    held[e] = 0;
    if (at < length) {
#if FIRST
      held[e] = key_of(in[row * length + at], at);
#else
      held[e] = in[row * length + at];
#endif
    }
  }

  // The k-th largest key, eight bits at a time: `prefix` is what is known of it, `left` how many are wanted of those that share it.
  u64 prefix = 0, mask = 0;
  u32 left = k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      const u32 bin = (held[e] & mask) == prefix ? (u32)(held[e] >> shift) & 255 : 256;
      // One addition for all threads of a warp that meet in a bin.
      const u32 peers = __match_any_sync(0xffffffffu, bin);
      if (bin < 256 && threadIdx.x % 32 == __ffs(peers) - 1) atomicAdd(&histogram[bin], __popc(peers));
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      // Lane l has the bins 255 − 8l … 248 − 8l, the largest first.
      const int top = 255 - 8 * threadIdx.x;
      u32 own = 0;
#pragma unroll
      for (int b = 0; b < 8; b++) own += histogram[top - b];
      u32 above = own;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const u32 other = __shfl_up_sync(0xffffffffu, above, step);
        if (threadIdx.x >= step) above += other;
      }
      above -= own;
      if (above < left && above + own >= left) {
        int b = 0;
        while (above + histogram[top - b] < left) above += histogram[top - b++];
        total[0] = top - b;
        total[1] = above;
      }
    }
    __syncthreads();
    const u32 bin = total[0], count = histogram[bin];
    left -= total[1];
    prefix |= (u64)bin << shift;
    mask |= 255ull << shift;
    __syncthreads();
    if (count == left) break;
  }

  // All keys from `prefix` on are the k largest.
  if (threadIdx.x == 0) total[0] = 0;
  for (int i = threadIdx.x; i < SORTED; i += THREADS) chosen[i] = 0;
  __syncthreads();
#pragma unroll
  for (int e = 0; e < EACH; e++) {
    if (held[e] >= prefix && held[e] != 0) {
      const u32 at = atomicAdd(&total[0], 1);
      if (at < SORTED) chosen[at] = held[e];
    }
  }
  __syncthreads();
#if LAST
  // A bitonic sort, the largest first.
  for (int size = 2; size <= SORTED; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      const int i = threadIdx.x, j = i ^ stride;
      if (i < SORTED && j > i) {
        const u64 a = chosen[i], b = chosen[j];
        if ((a < b) == ((i & size) == 0)) {
          chosen[i] = b;
          chosen[j] = a;
        }
      }
      __syncthreads();
    }
  }
  for (int i = threadIdx.x; i < k; i += THREADS) {
    const int index = (int)~(u32)chosen[i];
    values[row * k + i] = x[row * columns + index];
    indices[row * k + i] = index;
  }
#else
  for (int i = threadIdx.x; i < k; i += THREADS) keys[(i64)blockIdx.x * k + i] = chosen[i];
#endif
}
