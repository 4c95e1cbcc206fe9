// Kernels that overlap.
#pragma once
#include "common.cuh"

// A kernel launched to overlap begins before the one before it has ended: what that wrote may be touched only after the first of
// these, which every block has to come to. The second lets the kernel after this one begin, which may read ahead (overlaps.ts): it is
// only for kernels whose results nobody reads ahead. Where it follows the first, all kernels before this one have ended by then.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_kernel_after_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Holds back what a kernel reads ahead to about the memory's pace: what waits in the memory's queues delays the few reads and writes with
// which the kernels before it end.
template <int bytes_per_clock> struct Pace {
  u32 begun = clock();
  // Until so many bytes may have come.
  __device__ __forceinline__ void wait(u32 bytes) const {
    while ((u32)clock() - begun < bytes / bytes_per_clock) {}
  }
};
