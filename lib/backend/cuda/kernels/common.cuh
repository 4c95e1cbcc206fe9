// What every kernel file shares: 16-bit floats, 16-byte packs, reductions in a fixed order. No header but our own is
// included, so that NVRTC needs no include path.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 {
  u16 bits;
};
struct f16 {
  u16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

// Rounds to nearest even.
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <> __device__ __forceinline__ f16 from_float<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// N elements that are read and written at once; 16 bytes is what a thread moves best.
template <typename T, int N = 16 / sizeof(T)> struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

// Sum over a block of BLOCK threads, known to all of them; `scratch` holds 32 floats. The order of addition is fixed.
template <int BLOCK> __device__ __forceinline__ float block_sum(float x, float *scratch) {
  x = warp_sum(x);
  if (BLOCK == 32) return x;
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < BLOCK / 32; warp++) total += scratch[warp];
  return total;
}

template <int BLOCK> __device__ __forceinline__ float block_max(float x, float *scratch) {
  x = warp_max(x);
  if (BLOCK == 32) return x;
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float most = scratch[0];
#pragma unroll
  for (int warp = 1; warp < BLOCK / 32; warp++) most = fmaxf(most, scratch[warp]);
  return most;
}

// Stops the program where an index is outside [lowest, count): the launch fails instead of touching other memory.
__device__ __forceinline__ void check_index(int at, int lowest, int count) {
  if (at < lowest || at >= count) __trap();
}
