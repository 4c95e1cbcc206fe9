// Causal attention over packed sequences with mma.sync (sm_80 and newer), bf16 with 64 or 128 dimensions a head. Shapes as in
// attentionPlain.cu; attentionTile.cuh has the forward arithmetic. Blocks of 128 threads, grid (items of 64 rows, kvHeads).
#define MMA 1
#include "attentionTile.cuh"

// Shared memory: 320 rows of HEAD_DIM.
extern "C" __global__ void __launch_bounds__(128)
    attention_mma(const bf16 *x, const Item *items, int heads, int kvHeads, float plain, float log2e, bf16 *y, float *lse) {
  const Item item = items[blockIdx.x];
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const bf16 *k = x + (i64)(heads + blockIdx.y) * HEAD_DIM;
  mma_forward(x, PackedKeys{k, k + kvHeads * HEAD_DIM, width, item.keys}, item, heads, kvHeads, Scale{plain, log2e}, y, lse);
}

// Both gradients: tiles of 64 by 64, a warp has 16 rows of its own operands a, b [64] in shared memory and walks over tiles of
// the others, two in flight. Shared memory: 384 rows of HEAD_DIM, then 256 floats for dkv.
constexpr int SIDE = 64, TILE_BYTES = SIDE * HEAD_DIM * 2;

__device__ __forceinline__ void write_rows(bf16 *dx, const float (&o)[HEAD_DIM / 2], const i64 (&at)[2], float factor) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (at[half] < 0) continue;
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
      *(u32 *)(dx + at[half] + 8 * j + threadIdx.x % 4 * 2) = pack_bf16(o[4 * j + 2 * half] * factor, o[4 * j + 2 * half + 1] * factor);
  }
}

// dq of an item's flat rows.
extern "C" __global__ void __launch_bounds__(128)
    attention_mma_dq(const bf16 *dy, const bf16 *x, const float *lse, const float *delta, const Item *items, int heads, int kvHeads,
                     float plain, float log2e, bf16 *dx) {
  const u32 q = shared_address(dynamic_shared), g = q + TILE_BYTES, tiles = g + TILE_BYTES;
  const Item item = items[blockIdx.x];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = heads / kvHeads, head = blockIdx.y * group, last = last_position(item, SIDE, group);
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const bf16 *keys = x + (heads + blockIdx.y) * HEAD_DIM, *values = keys + kvHeads * HEAD_DIM;
  const auto index = [&](int flat) { return (i64)(item.query + flat / group) * heads + head + flat % group; };
  const auto query = [&](int flat) { return (item.query + flat / group) * width + (head + flat % group) * HEAD_DIM; };
  const auto copy_tile = [&](int start) {
    if (start <= last) {
      const u32 shared = tiles + start / SIDE % 2 * 2 * TILE_BYTES;
      const auto at = [&](int key) { return start + key <= last ? (item.keys + start + key) * width : -1; };
      copy_rows<SIDE, 128>(shared, keys, threadIdx.x, at);
      copy_rows<SIDE, 128>(shared + TILE_BYTES, values, threadIdx.x, at);
    }
    copy_commit();
  };
  copy_rows<SIDE, 128>(q, x, threadIdx.x, [&](int row) { return item.flat + row < item.flats ? query(item.flat + row) : -1; });
  copy_rows<SIDE, 128>(g, dy, threadIdx.x, [&](int row) { return item.flat + row < item.flats ? index(item.flat + row) * HEAD_DIM : -1; });
  copy_tile(0);

  float o[HEAD_DIM / 2], offset[2], d[2];
  int position[2];
  i64 at[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int flat = item.flat + 16 * warp + lane / 4 + 8 * half;
    const bool there = flat < item.flats;
    position[half] = there ? item.first + flat / group : -1;
    at[half] = there ? query(flat) : -1;
    offset[half] = there ? lse[index(flat)] * LOG2E : 0;
    d[half] = there ? delta[index(flat)] : 0;
  }
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 2; i++) o[i] = 0;
  for (int start = 0; start <= last; start += SIDE) {
    copy_tile(start + SIDE);
    copy_wait<1>();
    __syncthreads();
    const u32 k = tiles + start / SIDE % 2 * 2 * TILE_BYTES, v = k + TILE_BYTES;
    float s[SIDE / 2], dp[SIDE / 2];
#pragma unroll
    for (int i = 0; i < SIDE / 2; i++) s[i] = dp[i] = 0;
    mma_dots<SIDE>(s, q, 16 * warp, k, 0);
    mma_dots<SIDE>(dp, g, 16 * warp, v, 0);
#pragma unroll
    for (int i = 0; i < SIDE / 2; i++) {
      const int half = i / 2 % 2, key = start + i / 4 * 8 + lane % 4 * 2 + i % 2;
      s[i] = key <= position[half] ? exp2_fast(__fmaf_rn(s[i], log2e, -offset[half])) * (dp[i] - d[half]) : 0.f;
    }
#pragma unroll
    for (int i = 0; i < SIDE / 16; i++) mma_weigh(o, s + 8 * i, k, 16 * i);
    __syncthreads();
  }
  write_rows(dx, o, at, plain);
}

// dk and dv of an item's 64 keys item.flat … of item.flats, summed over the flat rows that see them, in order.
extern "C" __global__ void __launch_bounds__(128)
    attention_mma_dkv(const bf16 *dy, const bf16 *x, const float *lse, const float *delta, const Item *items, int heads, int kvHeads,
                      float plain, float log2e, bf16 *dx) {
  const u32 k = shared_address(dynamic_shared), v = k + TILE_BYTES, tiles = v + TILE_BYTES;
  float *statistics = (float *)((char *)dynamic_shared + 6 * TILE_BYTES); // per stage lse [64], delta [64]
  const Item item = items[blockIdx.x];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = heads / kvHeads, head = blockIdx.y * group, flats = item.flats * group;
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const i64 keys = (heads + blockIdx.y) * HEAD_DIM, values = keys + kvHeads * HEAD_DIM;
  const auto key = [&](int row) { return item.flat + row < item.flats ? (item.keys + item.flat + row) * width : -1; };
  const auto index = [&](int flat) { return (i64)(item.query + flat / group) * heads + head + flat % group; };
  const auto copy_tile = [&](int start) {
    if (start < flats) {
      const int stage = start / SIDE % 2;
      const u32 shared = tiles + stage * 2 * TILE_BYTES;
      copy_rows<SIDE, 128>(shared, x, threadIdx.x, [&](int row) -> i64 {
        const int flat = start + row;
        return flat < flats ? (item.query + flat / group) * width + (head + flat % group) * HEAD_DIM : -1;
      });
      copy_rows<SIDE, 128>(shared + TILE_BYTES, dy, threadIdx.x,
                           [&](int row) { return start + row < flats ? index(start + row) * HEAD_DIM : -1; });
      const int flat = start + threadIdx.x % SIDE;
      const float value = flat >= flats ? 0.f : threadIdx.x < SIDE ? lse[index(flat)] * LOG2E : delta[index(flat)];
      statistics[stage * 2 * SIDE + threadIdx.x] = value;
    }
    copy_commit();
  };
  copy_rows<SIDE, 128>(k, x + keys, threadIdx.x, key);
  copy_rows<SIDE, 128>(v, x + values, threadIdx.x, key);
  const int begin = item.flat * group / SIDE * SIDE;
  copy_tile(begin);

  float dk[HEAD_DIM / 2], dv[HEAD_DIM / 2];
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 2; i++) dk[i] = dv[i] = 0;
  // Key p is seen by the flat rows from p * group on.
  const int own = 16 * warp + lane / 4;
  const int seen[2] = {(item.flat + own) * group, (item.flat + own + 8) * group};
  for (int start = begin; start < flats; start += SIDE) {
    copy_tile(start + SIDE);
    copy_wait<1>();
    __syncthreads();
    const u32 q = tiles + start / SIDE % 2 * 2 * TILE_BYTES, g = q + TILE_BYTES;
    const float *offset = statistics + start / SIDE % 2 * 2 * SIDE, *d = offset + SIDE;
    float p[SIDE / 2], ds[SIDE / 2];
#pragma unroll
    for (int i = 0; i < SIDE / 2; i++) p[i] = ds[i] = 0;
    mma_dots<SIDE>(p, k, 16 * warp, q, 0);
    mma_dots<SIDE>(ds, v, 16 * warp, g, 0);
#pragma unroll
    for (int i = 0; i < SIDE / 2; i++) {
      const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      p[i] = start + column >= seen[i / 2 % 2] && start + column < flats ? exp2_fast(__fmaf_rn(p[i], log2e, -offset[column])) : 0.f;
      ds[i] = p[i] * (ds[i] - d[column]);
    }
#pragma unroll
    for (int i = 0; i < SIDE / 16; i++) mma_weigh(dv, p + 8 * i, g, 16 * i);
#pragma unroll
    for (int i = 0; i < SIDE / 16; i++) mma_weigh(dk, ds + 8 * i, q, 16 * i);
    __syncthreads();
  }
  const i64 keyAt[2] = {key(own), key(own + 8)};
  const i64 dkAt[2] = {keyAt[0] < 0 ? -1 : keyAt[0] + keys, keyAt[1] < 0 ? -1 : keyAt[1] + keys};
  const i64 dvAt[2] = {keyAt[0] < 0 ? -1 : keyAt[0] + values, keyAt[1] < 0 ? -1 : keyAt[1] + values};
  write_rows(dx, dk, dkAt, plain);
  write_rows(dx, dv, dvAt, 1);
}
