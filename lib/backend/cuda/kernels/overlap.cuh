// Kernels that overlap.
#pragma once

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
