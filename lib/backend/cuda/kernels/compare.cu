// Whether two arrays hold the same bits.
#include "common.cuh"

// Raises `count` by the number of 16-bit words in which a and b differ.
extern "C" __global__ void __launch_bounds__(256) count_differences(const u16 *a, const u16 *b, i64 words, u32 *count) {
  u32 mine = 0;
  for (i64 i = (i64)blockIdx.x * 256 + threadIdx.x; i < words; i += (i64)gridDim.x * 256) mine += a[i] != b[i];
  mine = __reduce_add_sync(0xffffffffu, mine);
  if (threadIdx.x % 32 == 0 && mine != 0) atomicAdd(count, mine);
}
