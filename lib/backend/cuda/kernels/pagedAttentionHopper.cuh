// What pagedAttentionCluster.cu and pagedAttentionStream.cu have in common: chunks of up to 16 flat rows of pagedAttention.cu on Hopper, with
// the same bits, since every element's order of operations is that of mma_forward. The copy engine brings boxes of BOX_ROWS keys, which
// lie in one page; those that the kernel before did not write come while it ends.
#pragma once
#ifndef MMA
#define MMA 1
#endif
#include "attentionTile.cuh"
#include "hopper.cuh"

#ifndef BOX_ROWS // of a page; a multiple of 8 that divides 64
#define BOX_ROWS 64
#endif

// A chunk's four tiles of 128 keys are made by a block or warp each; so are the quarters of the output's dimensions.
constexpr int FEW = 16, TILES = CHUNK / KEYS, OWN = HEAD_DIM / TILES, SLABS = HEAD_DIM / 64;
constexpr int P_UNITS = KEYS / 8, P_BYTES = FEW * KEYS * 2;

// What a block does: a chunk of the item's rows, of one key head.
struct Work {
  Item item;
  int group, kvHead, head; // query heads of the key head, its number, and the first of them
  int last; // position of the last row
  int begin, keys; // the chunk's first key, and how many there are
  int tiles, parts; // of 128 and of 64 keys

  __device__ __forceinline__ Work(const Item &item, int heads, int kvHeads, int kvHead) : item(item), kvHead(kvHead) {
    group = heads / kvHeads;
    head = kvHead * group;
    last = last_position(item, FEW, group);
    go_to(item.chunk);
  }
  __device__ __forceinline__ void go_to(int chunk) {
    begin = chunk * CHUNK;
    keys = min(last + 1 - begin, CHUNK);
    tiles = (keys + KEYS - 1) / KEYS;
    parts = (keys + 63) / 64;
  }
  // Flat row of the lane's two rows.
  __device__ __forceinline__ int flat(int half) const { return item.flat + threadIdx.x % 32 / 4 + 8 * half; }
  // The last key that it sees, from `key` of the chunk on.
  __device__ __forceinline__ int visible(int half, int key) const {
    return flat(half) < item.flats ? item.first + flat(half) / group - begin - key : -1;
  }
  // Whether a row does not see all keys up to this one.
  __device__ __forceinline__ bool hides(int key) const { return begin + key > item.first + item.flat / group; }
  // Whether the kernel before may have written some of a box's keys.
  __device__ __forceinline__ bool young(int key) const { return begin + key + BOX_ROWS > item.first; }
  __device__ __forceinline__ int cache_row(const int *pages, int pageSize, int key) const {
    return pages[item.keys + (begin + key) / pageSize] * pageSize + (begin + key) % pageSize;
  }
  // Rows of the boxes that hold `count` keys.
  static __device__ __forceinline__ int boxed(int count) { return (count + BOX_ROWS - 1) / BOX_ROWS * BOX_ROWS; }

  // By 128 threads; they are there after copy_wait and a barrier.
  __device__ __forceinline__ void copy_queries(u32 q, const bf16 *x, int heads, int kvHeads) const {
    const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
    copy_rows<FEW, 128>(q, x, threadIdx.x, [&](int row) -> i64 {
      const int number = item.flat + row;
      return number < item.flats ? (item.query + number / group) * width + (head + number % group) * HEAD_DIM : NOWHERE;
    });
    copy_commit();
  }
  // Output of `columns` / 8 accumulators, dimensions `column` on.
  template <int columns>
  __device__ __forceinline__ void write(const float *o, const float (&m)[2], const float (&l)[2], int column, bool isPartial, int heads,
                                        int kvHeads, bf16 *y, float *partial) const {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (flat(half) >= item.flats) continue;
      if (!isPartial) {
        const float inverse = __frcp_rn(l[half]);
        bf16 *to = y + ((i64)(item.query + flat(half) / group) * heads + head + flat(half) % group) * HEAD_DIM + column + 2 * t;
#pragma unroll
        for (int j = 0; j < columns / 8; j++)
          *(u32 *)(to + 8 * j) = pack_bf16(__fmul_rn(o[4 * j + 2 * half], inverse), __fmul_rn(o[4 * j + 2 * half + 1], inverse));
      } else {
        float *to = partial + (((i64)item.slot * kvHeads + kvHead) * FEW + flat(half) - item.flat) * (HEAD_DIM + 2);
#pragma unroll
        for (int j = 0; j < columns / 8; j++) *(float2 *)(to + column + 8 * j + 2 * t) = make_float2(o[4 * j + 2 * half], o[4 * j + 2 * half + 1]);
        if (column + t == 0) *(float2 *)(to + HEAD_DIM) = make_float2(m[half], l[half]);
      }
    }
  }
};

// Factors of what came before each tile, from the tiles' greatest scores; m becomes the greatest of all.
__device__ __forceinline__ void tile_ratios(float (&alphas)[TILES][2], float (&m)[2], const float (*tops)[TILES], int tiles, Scale scale) {
  const int g = threadIdx.x % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    m[half] = NOTHING;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      const float now = tile < tiles ? fmaxf(m[half], tops[g + 8 * half][tile]) : m[half];
      alphas[tile][half] = mma_ratio(m[half], now, scale);
      m[half] = now;
    }
  }
}

__device__ __forceinline__ void tile_totals(float (&l)[2], const float (&alphas)[TILES][2], const float (*sums)[TILES][4], int tiles) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    l[half] = 0;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
      if (tile < tiles) l[half] = __fmaf_rn(l[half], alphas[tile][half], sums[g + 8 * half][tile][t]);
    l[half] = quad_total(l[half]);
  }
}

__device__ __forceinline__ void store_pair(u32 p, int row, int unit, float low, float high) {
  const u32 at = unit_at<P_UNITS>(p, row, unit) + threadIdx.x % 4 * 4;
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pack_bf16(low, high)) : "memory");
}

__device__ __forceinline__ void store_zeros(u32 at) { asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory"); }
