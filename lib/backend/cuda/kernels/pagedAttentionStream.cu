// Many chunks (pagedAttentionHopper.cuh): a block has one, or with WHOLE = 1 all those of its rows, one after the other, which it
// merges in order as paged_mma_merge does. They come through a ring of STAGES units of 64 keys or values.
#include "pagedAttentionHopper.cuh"

#ifndef STAGES
#define STAGES 5
#endif
#ifndef WHOLE
#define WHOLE 0
#endif
constexpr int HALF_BYTES = 64 * 128, UNIT_BYTES = SLABS * HALF_BYTES; // 64 keys or values: [SLABS][64, 64]
constexpr int PARTS = CHUNK / 64, UNITS_OF_CHUNK = 2 * PARTS;
// A unit's barrier is that of its number in its chunk, the phase the chunk's number. A warp that waits for it knows that the phase
// before is over, or else would take its parity for this one: it has waited for that one too, or for another warp that had. (Of one
// barrier a stage it would not know this.) The ring is no longer than a chunk, so that a unit whose barrier is taken again has been read.
static_assert(STAGES <= UNITS_OF_CHUNK, "a barrier is taken again while its bytes are on their way");
// Dynamic shared memory: units [STAGES], p [4][16, 128] bf16, q [16, HEAD_DIM], and 1024 for alignment.

__device__ __forceinline__ void barrier_arrive_times(u32 barrier, int times) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(times) : "memory");
}

// Takes a tile's statistics in, and reduces what came before it: the arithmetic of tile_ratios and tile_totals.
__device__ __forceinline__ void next_tile(float (&o)[OWN / 2], float (&m)[2], float (&l)[2], const float (*tops)[TILES],
                                          const float (*sums)[TILES][4], int tile, Scale scale) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float alpha[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float now = fmaxf(m[half], tops[g + 8 * half][tile]);
    alpha[half] = mma_ratio(m[half], now, scale);
    l[half] = __fmaf_rn(l[half], alpha[half], sums[g + 8 * half][tile][t]);
    m[half] = now;
  }
#pragma unroll
  for (int i = 0; i < OWN / 2; i++) o[i] = __fmul_rn(o[i], alpha[i / 2 % 2]);
}

// Grid (items · kvHeads), the heads of an item side by side, since their keys are; four warps that compute and one that brings the
// units: of each chunk the keys in order, then the values. Two units of keys are a warp's tile.
extern "C" __global__ void __launch_bounds__(160, 2)
paged_mma_stream(const bf16 *x, const __grid_constant__ TensorMap map, const int *pages, int pageSize, const Item *items, int heads,
                 int kvHeads, float plain, float log2e, bf16 *y, float *partial) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[UNITS_OF_CHUNK + STAGES];
  __shared__ float all_tops[2][FEW][TILES], sums[FEW][TILES][4]; // the former of even and odd chunks
  const u32 full = shared_address(barriers), empty = full + 8 * UNITS_OF_CHUNK; // one a unit of a chunk, one a stage
  const u32 ring = (shared_address(dynamic_shared) + 1023) / 1024 * 1024, p = ring + STAGES * UNIT_BYTES, q = p + TILES * P_BYTES;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if (warp == 4) {
    if (lane == 0) prefetch_map(map);
    if (lane < UNITS_OF_CHUNK) barrier_init(full + 8 * lane, 1);
    if (lane < STAGES) barrier_init(empty + 8 * lane, 4);
    barrier_init_fence();
  }
  Work work(items[blockIdx.x / kvHeads], heads, kvHeads, blockIdx.x % kvHeads);
  const int first = WHOLE ? 0 : work.item.chunk, chunks = WHOLE ? work.last / CHUNK + 1 : 1;
  const Scale scale{plain, log2e};
  __syncthreads();
  let_kernel_after_begin();
  if (work.item.query < 0) {
    wait_for_kernel_before();
    return;
  }
  // Units are numbered through all chunks; only the last chunk has fewer than UNITS_OF_CHUNK.
  const auto place = [&](u32 unit) { return ring + unit % STAGES * UNIT_BYTES; };
  const auto full_of = [&](u32 unit) { return full + unit % UNITS_OF_CHUNK * 8; };

  if (warp == 4) {
    work.go_to(first + chunks - 1);
    const u32 units = (chunks - 1) * UNITS_OF_CHUNK + 2 * work.parts;
    // Brings a unit if it is young, or old, or (-1) whichever it is.
    const auto bring = [&](u32 unit, int young) {
      work.go_to(first + unit / UNITS_OF_CHUNK);
      const int number = unit % UNITS_OF_CHUNK, isValue = number >= work.parts, part = number - isValue * work.parts;
      const int from = part * 64, key = from + lane * BOX_ROWS;
      if (young == !work.young(from + 64 - BOX_ROWS)) return;
      const u32 barrier = full_of(unit);
      if (lane == 0) barrier_expect(barrier, Work::boxed(min(64, work.keys - from)) * HEAD_DIM * 2);
      __syncwarp();
      if (lane < 64 / BOX_ROWS && key < work.keys) {
        const int at = work.cache_row(pages, pageSize, key), column = (work.kvHead + isValue * kvHeads) * HEAD_DIM;
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++)
          tma_load_once(place(unit) + slab * HALF_BYTES + lane * BOX_ROWS * 128, map, column + 64 * slab, at, barrier);
      }
      __syncwarp();
    };
    const u32 ahead = units < STAGES ? units : STAGES;
    for (u32 unit = 0; unit < ahead; unit++) bring(unit, 0);
    wait_for_kernel_before();
    for (u32 unit = 0; unit < ahead; unit++) bring(unit, 1);
    for (u32 unit = ahead; unit < units; unit++) {
      barrier_wait(empty + unit % STAGES * 8, (unit / STAGES - 1) % 2);
      bring(unit, -1);
    }
    return;
  }
  wait_for_kernel_before();
  work.copy_queries(q, x, heads, kvHeads);
  named_sync(1, 128);

  const auto release = [&](u32 unit, int times) {
    __syncwarp();
    if (lane == 0) barrier_arrive_times(empty + unit % STAGES * 8, times);
  };
  float running[OWN / 2], M[2], L[2];
  for (int turn = 0; turn < chunks; turn++) {
    work.go_to(first + turn);
    const int keys = work.keys, parts = work.parts, tiles = work.tiles;
    const u32 start = turn * UNITS_OF_CHUNK, phase = turn % 2; // the number of the chunk's first unit
    float(*tops)[TILES] = all_tops[turn % 2];
    float s[KEYS / 2], top[2];
    if (warp < tiles) {
      u32 queries[HEAD_DIM / 16][4];
#pragma unroll
      for (int step = 0; step < HEAD_DIM / 16; step++) ldmatrix(queries[step], unit_at(q, lane % 16, 2 * step + lane / 16));
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++) s[i] = 0;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int part = 2 * warp + half;
        if (part >= parts) break;
        const u32 unit = start + part, k = place(unit);
        barrier_wait(full_of(unit), phase);
#pragma unroll
        for (int step = 0; step < HEAD_DIM / 16; step++) {
          u32 right[4];
#pragma unroll
          for (int n = 0; n < 4; n++) {
            ldmatrix(right, unit_at<8>(k + step / 4 * HALF_BYTES, 16 * n + lane % 8 + lane / 16 * 8, 2 * (step % 4) + lane / 8 % 2));
            mma(s + 32 * half + 8 * n, queries[step], right[0], right[1]);
            mma(s + 32 * half + 8 * n + 4, queries[step], right[2], right[3]);
          }
        }
        release(unit, 4);
      }
      if (work.hides(warp * KEYS + KEYS - 1)) mma_mask<KEYS>(s, {work.visible(0, warp * KEYS), work.visible(1, warp * KEYS)});
      mma_top(s, top);
      if (t == 0) tops[g][warp] = top[0], tops[g + 8][warp] = top[1];
    }
    named_sync(1, 128); // and nobody reads what the chunk before left in p and sums
    if (warp < tiles) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        if (half == 1 && work.item.flats - work.item.flat <= 8) break; // there are no such rows; what p has there is nobody's
        const int row = g + 8 * half;
        float now = tops[row][0];
        for (int tile = 1; tile <= warp; tile++) now = fmaxf(now, tops[row][tile]);
        sums[row][warp][t] = mma_exponentials(s, half, now, scale);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) store_pair(p + warp * P_BYTES, row, j, s[4 * j + 2 * half], s[4 * j + 2 * half + 1]);
      }
    }
    named_sync(1, 128);

    float o[OWN / 2], m[2] = {NOTHING, NOTHING}, l[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < OWN / 2; i++) o[i] = 0;
    const int column = warp * OWN / 8 % 8; // in units, in its slab
    // A loop, and so what follows for all parts: all written out, instructions are late.
#pragma unroll 1
    for (int part = 0; part < parts; part++) {
      u32 left[4][4], right[4];
#pragma unroll
      for (int i = 0; i < 4; i++) ldmatrix(left[i], unit_at<P_UNITS>(p + part / 2 * P_BYTES, lane % 16, part % 2 * 8 + 2 * i + lane / 16));
      const u32 unit = start + parts + part, v = place(unit) + warp * OWN / 64 * HALF_BYTES;
      if (part % 2 == 0) next_tile(o, m, l, tops, sums, part / 2, scale);
      barrier_wait(full_of(unit), phase);
      // What lies in the page after the last key may be anything; its probability is 0. Such a unit is the last one in its stage.
      if (part == parts - 1) {
        for (int i = lane; i < (parts * 64 - keys) * (OWN / 8); i += 32) store_zeros(unit_at<8>(v, keys % 64 + i / (OWN / 8), column + i % (OWN / 8)));
        __syncwarp();
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int n = 0; n < OWN / 16; n++) {
          ldmatrix_transposed(right, unit_at<8>(v, 16 * i + lane % 16, column + 2 * n + lane / 16));
          mma(o + 8 * n, left[i], right[0], right[1]);
          mma(o + 8 * n + 4, left[i], right[2], right[3]);
        }
      release(unit, 1);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float sum = quad_total(l[half]);
      if (turn > 0 && work.visible(half, 0) < 0) continue; // the row ends before this chunk
      float a, b;
      if (turn == 0) M[half] = m[half], L[half] = sum;
      else mma_merge(M[half], L[half], m[half], sum, a, b, scale);
#pragma unroll
      for (int j = 0; j < OWN / 2; j++)
        if (j / 2 % 2 == half) running[j] = turn == 0 ? o[j] : __fmaf_rn(running[j], a, __fmul_rn(o[j], b));
    }
  }
  work.write<OWN>(running, M, L, warp * OWN, !WHOLE && work.item.slot >= 0, heads, kvHeads, y, partial);
#endif
}
