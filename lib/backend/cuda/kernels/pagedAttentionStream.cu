// Many chunks (pagedAttentionHopper.cuh): a block has one, which comes through a ring of STAGES units of 64 keys or values.
#include "pagedAttentionHopper.cuh"

#ifndef STAGES
#define STAGES 5
#endif
constexpr int HALF_BYTES = 64 * 128, UNIT_BYTES = SLABS * HALF_BYTES; // 64 keys or values: [SLABS][64, 64]
constexpr int MOST_UNITS = 2 * CHUNK / 64;
// Dynamic shared memory: units [STAGES], p [4][16, 128] bf16, q [16, HEAD_DIM], and 1024 for alignment.

__device__ __forceinline__ void barrier_arrive_times(u32 barrier, int times) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(times) : "memory");
}

// Grid (items, kvHeads); four warps that compute and one that brings the units: keys in order, then values. Two units of keys are a
// warp's tile.
extern "C" __global__ void __launch_bounds__(160)
paged_mma_stream(const bf16 *x, const __grid_constant__ TensorMap map, const int *pages, int pageSize, const Item *items, int heads,
                 int kvHeads, float plain, float log2e, bf16 *y, float *partial) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[MOST_UNITS + STAGES];
  __shared__ float tops[FEW][TILES], sums[FEW][TILES][4];
  const u32 full = shared_address(barriers), empty = full + 8 * MOST_UNITS; // one a unit, one a stage
  const u32 ring = (shared_address(dynamic_shared) + 1023) / 1024 * 1024, p = ring + STAGES * UNIT_BYTES, q = p + TILES * P_BYTES;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const Work work(items[blockIdx.x], heads, kvHeads);
  const int keys = work.keys, parts = work.parts;
  const Scale scale{plain, log2e};
  if (threadIdx.x == 0) {
    for (int unit = 0; unit < MOST_UNITS; unit++) barrier_init(full + 8 * unit, 1);
    for (int stage = 0; stage < STAGES; stage++) barrier_init(empty + 8 * stage, 4);
    barrier_init_fence();
  }
  __syncthreads();
  let_kernel_after_begin();
  if (work.item.query < 0) {
    wait_for_kernel_before();
    return;
  }
  const auto place = [&](int unit) { return ring + unit % STAGES * UNIT_BYTES; };

  if (warp == 4) {
    bool waited = false;
    for (int unit = 0; unit < 2 * parts; unit++) {
      const int first = unit % parts * 64, key = first + lane * BOX_ROWS;
      const u32 barrier = full + 8 * unit;
      if (!waited && work.young(first + 64 - BOX_ROWS)) wait_for_kernel_before(), waited = true;
      if (unit >= STAGES) barrier_wait(empty + unit % STAGES * 8, (unit / STAGES - 1) % 2);
      if (lane == 0) barrier_expect(barrier, Work::boxed(min(64, keys - first)) * HEAD_DIM * 2);
      __syncwarp();
      if (lane < 64 / BOX_ROWS && key < keys) {
        const int at = work.cache_row(pages, pageSize, key), column = (blockIdx.y + (unit < parts ? 0 : kvHeads)) * HEAD_DIM;
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++)
          tma_load(place(unit) + slab * HALF_BYTES + lane * BOX_ROWS * 128, map, column + 64 * slab, at, barrier);
      }
      __syncwarp();
    }
    if (!waited) wait_for_kernel_before();
    return;
  }
  wait_for_kernel_before();
  work.copy_queries(q, x, heads, kvHeads);
  named_sync(1, 128);

  const auto release = [&](int unit, int times) {
    __syncwarp();
    if (lane == 0) barrier_arrive_times(empty + unit % STAGES * 8, times);
  };
  float s[KEYS / 2], top[2], m[2], l[2], alphas[TILES][2];
#pragma unroll
  for (int i = 0; i < KEYS / 2; i++) s[i] = 0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int unit = 2 * warp + half;
    if (unit >= parts) break;
    barrier_wait(full + 8 * unit, 0);
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      u32 left[4], right[4];
      ldmatrix(left, unit_at(q, lane % 16, 2 * step + lane / 16));
#pragma unroll
      for (int n = 0; n < 4; n++) {
        ldmatrix(right, unit_at<8>(place(unit) + step / 4 * HALF_BYTES, 16 * n + lane % 8 + lane / 16 * 8, 2 * (step % 4) + lane / 8 % 2));
        mma(s + 32 * half + 8 * n, left, right[0], right[1]);
        mma(s + 32 * half + 8 * n + 4, left, right[2], right[3]);
      }
    }
    release(unit, 4);
  }
  mma_mask<KEYS>(s, {work.visible(0, warp * KEYS), work.visible(1, warp * KEYS)});
  mma_top(s, top);
  if (t == 0) tops[g][warp] = top[0], tops[g + 8][warp] = top[1];
  named_sync(1, 128);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = g + 8 * half;
    float now = tops[row][0];
    for (int tile = 1; tile <= warp; tile++) now = fmaxf(now, tops[row][tile]);
    sums[row][warp][t] = mma_exponentials(s, half, now, scale);
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) store_pair(p + warp * P_BYTES, row, j, s[4 * j + 2 * half], s[4 * j + 2 * half + 1]);
  }
  named_sync(1, 128);

  tile_ratios(alphas, m, tops, work.tiles, scale);
  float o[OWN / 2];
#pragma unroll
  for (int i = 0; i < OWN / 2; i++) o[i] = 0;
  const int column = warp * OWN / 8 % 8; // in units, in its slab
#pragma unroll
  for (int part = 0; part < CHUNK / 64; part++) {
    if (part >= parts) break;
    const int unit = parts + part;
    const u32 v = place(unit) + warp * OWN / 64 * HALF_BYTES;
    barrier_wait(full + 8 * unit, 0);
    // What lies in the page after the last key may be anything; its probability is 0.
    if (part == parts - 1) {
      for (int i = lane; i < (parts * 64 - keys) * (OWN / 8); i += 32) store_zeros(unit_at<8>(v, keys % 64 + i / (OWN / 8), column + i % (OWN / 8)));
      __syncwarp();
    }
    if (part % 2 == 0)
#pragma unroll
      for (int i = 0; i < OWN / 2; i++) o[i] = __fmul_rn(o[i], alphas[part / 2][i / 2 % 2]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 left[4], right[4];
      ldmatrix(left, unit_at<P_UNITS>(p + part / 2 * P_BYTES, lane % 16, part % 2 * 8 + 2 * i + lane / 16));
#pragma unroll
      for (int n = 0; n < OWN / 16; n++) {
        ldmatrix_transposed(right, unit_at<8>(v, 16 * i + lane % 16, column + 2 * n + lane / 16));
        mma(o + 8 * n, left, right[0], right[1]);
        mma(o + 8 * n + 4, left, right[2], right[3]);
      }
    }
    release(unit, 1);
  }
  tile_totals(l, alphas, sums, work.tiles);
  work.write<OWN>(o, m, l, warp * OWN, work.item.slot >= 0, heads, kvHeads, y, partial);
#endif
}
