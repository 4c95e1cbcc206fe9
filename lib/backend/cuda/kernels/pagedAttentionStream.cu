// Many chunks (pagedAttentionHopper.cuh): a block has one at a time, of an item, or with WHOLE = 1 all those of its rows, one after the
// other, which it merges in order as paged_mma_merge does. They come through a ring of STAGES units of 64 keys or values: a chunk's keys
// in order, then the values of the chunk before, so that these are on their way while probabilities are made.
#include "pagedAttentionHopper.cuh"

#ifndef STAGES
#define STAGES 4
#endif
#ifndef WHOLE
#define WHOLE 0
#endif
constexpr int HALF_BYTES = 64 * 128, UNIT_BYTES = SLABS * HALF_BYTES; // 64 keys or values: [SLABS][64, 64]
// Units are numbered; one has the barrier of its number modulo BARRIERS, as many as a chunk of keys and one of values have units. So a
// warp that waits for a unit has waited for the one that had the barrier before, or has met warps that had, and does not take that
// one's parity for this one's. (Of one barrier a stage it would not know this.) Nor is the ring longer, so that a unit whose barrier is
// taken again has been read by all who wait for it.
constexpr int BARRIERS = 2 * CHUNK / 64;
static_assert(STAGES <= BARRIERS, "a barrier is taken again while its bytes are on their way");
// Dynamic shared memory: units [STAGES], p [2][4][16, 128] bf16 (of even and odd chunks), q [16, HEAD_DIM], and 1024 for alignment.
constexpr int CHUNK_P_BYTES = TILES * P_BYTES;

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

// `works` are items · kvHeads, the heads of an item side by side, since their keys are; a block has those gridDim.x apart. Four warps
// compute and one brings the units. Two units of keys are a warp's tile.
extern "C" __global__ void __launch_bounds__(160, 2)
paged_mma_stream(const bf16 *x, const __grid_constant__ TensorMap map, const int *pages, int pageSize, const Item *items, int works, int heads,
                 int kvHeads, float plain, float log2e, bf16 *y, float *partial) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[BARRIERS + STAGES];
  __shared__ float all_tops[3][FEW][TILES], all_sums[2][FEW][TILES][4]; // of chunks modulo 3 and 2
  const u32 full = shared_address(barriers), empty = full + 8 * BARRIERS; // the latter one a stage
  const u32 ring = (shared_address(dynamic_shared) + 1023) / 1024 * 1024, all_p = ring + STAGES * UNIT_BYTES, q = all_p + 2 * CHUNK_P_BYTES;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if (warp == 4) {
    if (lane == 0) prefetch_map(map);
    if (lane < BARRIERS) barrier_init(full + 8 * lane, 1);
    if (lane < STAGES) barrier_init(empty + 8 * lane, 4);
    barrier_init_fence();
  }
  const Scale scale{plain, log2e};
  int at = blockIdx.x;
  Work work(items[at / kvHeads], heads, kvHeads, at % kvHeads);
  // On to an item that there is.
  const auto find = [&](Work &work) {
    while (work.item.query < 0 && (at += gridDim.x) < works) work = Work(items[at / kvHeads], heads, kvHeads, at % kvHeads);
  };
  // On to the next chunk; whether it is another item's.
  const auto step = [&](Work &work) {
    if (WHOLE && work.begin + CHUNK <= work.last) {
      work.go_to(work.begin / CHUNK + 1);
      return false;
    }
    work.item.query = -1;
    find(work);
    return true;
  };
  find(work);
  __syncthreads();
  let_kernel_after_begin();
  const auto place = [&](u32 unit) { return ring + unit % STAGES * UNIT_BYTES; };
  const auto full_of = [&](u32 unit) { return full + unit % BARRIERS * 8; };
  u32 unit = 0; // the next

  if (warp == 4) {
    bool waited = false;
    const auto bring = [&](const Work &of, bool isValue) {
      for (int from = 0; from < of.keys; from += 64, unit++) {
        const int key = from + lane * BOX_ROWS;
        const u32 barrier = full_of(unit);
        if (!waited && of.young(from + 64 - BOX_ROWS)) wait_for_kernel_before(), waited = true;
        if (unit >= STAGES) barrier_wait(empty + unit % STAGES * 8, (unit / STAGES - 1) % 2);
        if (lane == 0) barrier_expect(barrier, Work::boxed(min(64, of.keys - from)) * HEAD_DIM * 2);
        __syncwarp();
        if (lane < 64 / BOX_ROWS && key < of.keys) {
          const int row = of.cache_row(pages, pageSize, key), column = (of.kvHead + (isValue ? kvHeads : 0)) * HEAD_DIM;
#pragma unroll
          for (int slab = 0; slab < SLABS; slab++)
            tma_load_once(place(unit) + slab * HALF_BYTES + lane * BOX_ROWS * 128, map, column + 64 * slab, row, barrier);
        }
        __syncwarp();
      }
    };
    Work before = work;
    for (int chunk = 0;; chunk++) {
      const bool more = at < works;
      if (more) bring(work, false);
      if (chunk > 0) bring(before, true);
      if (!more) break;
      before = work;
      step(work);
    }
    if (!waited) wait_for_kernel_before();
    return;
  }

  wait_for_kernel_before();
  const auto release = [&](u32 unit, int times) {
    __syncwarp();
    if (lane == 0) barrier_arrive_times(empty + unit % STAGES * 8, times);
  };
  float running[OWN / 2], M[2], L[2];
  bool isOther = true; // an item whose queries are still to come
  Work before = work;
  if (at < works) work.copy_queries(q, x, heads, kvHeads);
  for (int chunk = 0;; chunk++) {
    // Each chunk's probabilities are made before the values of the chunk before are weighed.
    const bool more = at < works;
    const int tiles = more ? work.tiles : 0;
    float s[KEYS / 2];
    float(*tops)[TILES] = all_tops[chunk % 3];
    if (more && isOther) {
      copy_wait<0>();
      named_sync(1, 128);
    }
    if (warp < tiles) {
      float top[2];
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++) s[i] = 0;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u32 own = unit + 2 * warp + half, k = place(own);
        if (2 * warp + half >= work.parts) break;
        barrier_wait(full_of(own), own / BARRIERS % 2);
#pragma unroll
        for (int step = 0; step < HEAD_DIM / 16; step++) {
          u32 left[4], right[4];
          ldmatrix(left, unit_at(q, lane % 16, 2 * step + lane / 16));
#pragma unroll
          for (int n = 0; n < 4; n++) {
            ldmatrix(right, unit_at<8>(k + step / 4 * HALF_BYTES, 16 * n + lane % 8 + lane / 16 * 8, 2 * (step % 4) + lane / 8 % 2));
            mma(s + 32 * half + 8 * n, left, right[0], right[1]);
            mma(s + 32 * half + 8 * n + 4, left, right[2], right[3]);
          }
        }
        release(own, 4);
      }
      if (work.hides(warp * KEYS + KEYS - 1)) mma_mask<KEYS>(s, {work.visible(0, warp * KEYS), work.visible(1, warp * KEYS)});
      mma_top(s, top);
      if (t == 0) tops[g][warp] = top[0], tops[g + 8][warp] = top[1];
    }
    if (more) unit += work.parts;
    // What the others made of the chunk before is here, and nobody is at what came before that.
    named_sync(1, 128);
    if (warp < tiles) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        if (half == 1 && work.item.flats - work.item.flat <= 8) break; // there are no such rows; what p has there is nobody's
        const int row = g + 8 * half;
        float now = tops[row][0];
        for (int tile = 1; tile <= warp; tile++) now = fmaxf(now, tops[row][tile]);
        all_sums[chunk % 2][row][warp][t] = mma_exponentials(s, half, now, scale);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
          store_pair(all_p + chunk % 2 * CHUNK_P_BYTES + warp * P_BYTES, row, j, s[4 * j + 2 * half], s[4 * j + 2 * half + 1]);
      }
    }
    Work next = work;
    if (more) {
      isOther = step(next);
      if (isOther && at < works) next.copy_queries(q, x, heads, kvHeads);
    }

    if (chunk > 0) {
      const bool isFirst = !WHOLE || before.begin == 0, isLast = !WHOLE || before.begin + CHUNK > before.last;
      const u32 p = all_p + (chunk - 1) % 2 * CHUNK_P_BYTES;
      float o[OWN / 2], m[2] = {NOTHING, NOTHING}, l[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < OWN / 2; i++) o[i] = 0;
      const int column = warp * OWN / 8 % 8; // in units of 16 bytes, in its slab
      // A loop, and so what follows for all parts: all written out, instructions are late.
#pragma unroll 1
      for (int part = 0; part < before.parts; part++, unit++) {
        u32 left[4][4], right[4];
#pragma unroll
        for (int i = 0; i < 4; i++) ldmatrix(left[i], unit_at<P_UNITS>(p + part / 2 * P_BYTES, lane % 16, part % 2 * 8 + 2 * i + lane / 16));
        const u32 v = place(unit) + warp * OWN / 64 * HALF_BYTES;
        if (part % 2 == 0) next_tile(o, m, l, all_tops[(chunk - 1) % 3], all_sums[(chunk - 1) % 2], part / 2, scale);
        barrier_wait(full_of(unit), unit / BARRIERS % 2);
        // What lies in the page after the last key may be anything; its probability is 0.
        if (before.keys < (part + 1) * 64) {
          for (int i = lane; i < ((part + 1) * 64 - before.keys) * (OWN / 8); i += 32)
            store_zeros(unit_at<8>(v, before.keys % 64 + i / (OWN / 8), column + i % (OWN / 8)));
          fence_async_proxy();
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
        if (!isFirst && before.visible(half, 0) < 0) continue; // the row ends before this chunk
        float a, b;
        if (isFirst) M[half] = m[half], L[half] = sum;
        else mma_merge(M[half], L[half], m[half], sum, a, b, scale);
#pragma unroll
        for (int j = 0; j < OWN / 2; j++)
          if (j / 2 % 2 == half) running[j] = isFirst ? o[j] : __fmaf_rn(running[j], a, __fmul_rn(o[j], b));
      }
      if (isLast) before.write<OWN>(running, M, L, warp * OWN, !WHOLE && before.item.slot >= 0, heads, kvHeads, y, partial);
    }
    if (!more) return;
    before = work;
    work = next;
  }
#endif
}
