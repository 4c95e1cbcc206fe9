// Tensor-core steps of a warp (mma.sync), and asynchronous copies into shared memory.
#pragma once
#include "instructions.cuh"
#include "overlap.cuh"

// Address of a unit of 16 bytes in a matrix whose rows have `units` of them; neighbouring rows lie in different banks.
template <int units> __device__ __forceinline__ u32 unit_at(u32 shared, int row, int unit) {
  return shared + (row * units + (unit ^ row & 7)) * 16;
}
__device__ __forceinline__ void ldmatrix(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
// d [16, 8] += a [16, 16] · b [16, 8]. Lane 4 g + t has d of rows g (d[0], d[1]) and g + 8 (d[2], d[3]), columns 2 t and 2 t + 1.
__device__ __forceinline__ void mma(float *d, const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void copy_async(u32 shared, const void *from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }
__device__ __forceinline__ void prefetch_second_level(const void *from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }
