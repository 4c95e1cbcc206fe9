// Thin wrappers around Hopper's own instructions (sm_90a): mbarrier, the bulk tensor copy engine (TMA), register
// redistribution. Addresses named `shared` are 32-bit addresses in the shared window.
#pragma once
#include "instructions.cuh"

// A CUtensorMap, passed by value: `const __grid_constant__ TensorMap`.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

// One barrier of 8 bytes; a phase ends after `count` arrivals and when all expected bytes have come.
__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// By the initialising thread, before the __syncthreads that publishes the barriers.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives and announces bytes that copies into shared memory will complete.
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Returns once the phase of this parity has ended: 0 for the first phase. A fresh barrier counts as having ended phase 1.
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\nbra again;\n"
      "done:\n}" ::"r"(barrier), "r"(parity) : "memory");
}
// Whether the phase of this parity has ended by now.
__device__ __forceinline__ bool barrier_passed(u32 barrier, u32 parity) {
  u32 passed;
  asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
               : "=r"(passed) : "r"(barrier), "r"(parity) : "memory");
  return passed;
}

// Named barriers 1 to 15 (0 is __syncthreads); `threads` counts all that sync or arrive.
__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Copies the map's box at (column, row) to shared memory; out-of-bounds elements are zero, and counted in the bytes.
__device__ __forceinline__ void tma_load(u32 shared, const TensorMap &map, int column, int row, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
// The same with three coordinates.
__device__ __forceinline__ void tma_load(u32 shared, const TensorMap &map, int column, int row, int box, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row), "r"(box), "r"(barrier)
      : "memory");
}
// Copies consecutive bytes, a multiple of 16 and aligned to 16 on both sides.
__device__ __forceinline__ void bulk_load(u32 shared, const void *global, int bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared), "l"(global),
               "r"(bytes), "r"(barrier)
               : "memory");
}
// Between ordinary shared-memory stores and their reading by wgmma or TMA; each writing thread, before the barrier.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Clusters: blocks of one cluster reach each other's shared memory; all blocks of a cluster call cluster_sync.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Arrives at the barrier at this address in the shared memory of the cluster's block `rank`: enough to say that wgmma has read, but
// it orders no ordinary writes across the cluster (.release.cluster would, by a fence that halves a product's speed).
__device__ __forceinline__ void barrier_arrive_remote(u32 barrier, int rank) {
  asm volatile(
      "{.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];}" ::"r"(barrier), "r"(rank)
      : "memory");
}
// tma_load into every block of the cluster whose rank's bit is set, at the same addresses and completing on each one's barrier.
__device__ __forceinline__ void tma_load_multicast(u32 shared, const TensorMap &map, int column, int row, u32 barrier, u16 ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::
          "r"(shared), "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(ranks)
      : "memory");
}
// The same with three coordinates.
__device__ __forceinline__ void tma_load_multicast(u32 shared, const TensorMap &map, int column, int row, int box, u32 barrier, u16 ranks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::
          "r"(shared), "l"(&map), "r"(column), "r"(row), "r"(box), "r"(barrier), "h"(ranks)
      : "memory");
}
// Copies the map's box from shared memory; out-of-bounds elements are not written. Ends with the thread's tma_store_wait.
__device__ __forceinline__ void tma_store(const TensorMap &map, int column, int row, u32 shared) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column), "r"(row), "r"(shared)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until at most `pending` of the thread's last stores have yet to read shared memory.
template <int pending> __device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}
// Four 8 x 8 matrices of 16-bit elements in accumulator layout; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices(u32 shared, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

template <int registers> __device__ __forceinline__ void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> __device__ __forceinline__ void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// wgmma descriptor of a bf16 matrix in shared memory as TMA writes boxes of 64 columns with the 128-byte swizzle: slabs of
// [rows, 64] (128 bytes a row), each aligned to 1024 bytes. `group`: the distance in bytes from 8 rows to the next 8.
// K-major (the contraction runs along the columns; not transposed): `slab` is unused; the next 16 of the contraction lie 32
// bytes on (inside a slab). M- or N-major (the contraction runs along the rows; trans = 1): `slab` is the distance in bytes from 64
// columns to the next 64; the next 16 rows of the contraction lie 2048 bytes on. Byte distances are added to a descriptor >> 4.
__device__ __forceinline__ u64 descriptor(u32 shared, u32 slab = 16, u32 group = 1024) {
  return (u64)((shared & 0x3ffff) >> 4) | (u64)(slab >> 4) << 16 | (u64)(group >> 4) << 32 | 1ull << 62;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `pending` groups are under way.
template <int pending> __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Keeps the compiler from moving what makes or uses an operand of wgmma across a fence or a wait. It injects waits of its own
// (ptxas notes C7510 to C7520) too where it can't see that a branch around wgmma is uniform: broadcast warp indices by a shuffle.
template <int n> __device__ __forceinline__ void hold(float (&registers)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int n> __device__ __forceinline__ void hold(u32 (&registers)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "+r"(registers[i])::"memory");
}
