// Causal attention over packed sequences, backward, with grouped queries, on Hopper's tensor cores: dx = [dq | dk | dv] of
// y = softmax(headDim^-0.5 q k^T) v, laid out as x (see attentionHopper.cu; heads must be a multiple of kvHeads). The gradients
// of a sequence have the same bits on every run and in any batch.
//
// Two launches. attention_backward_stats makes {lse log2(e), sum of dy y} of each query and head. attention_backward then has two
// kinds of blocks, none of which waits for another: 128 keys and their values stay in shared memory while the queries and
// dy of some heads flow by, for dk and dv; or 128 queries and their dy stay while keys and values flow by, for dq. Scores are
// computed for both: 7 products where one kernel that adds to dq from all keys would do 5. The query heads of a key head are
// dealt to `parts` blocks; the last of them to finish adds up all, in order. `parts` must depend on the layout of heads only.
//
// Work lists: per tile of 128 rows four i32 {first row of the sequence in x, its length, position of the tile, slot of the
// sequence}: keyTiles, those with most queries first, and queryTiles, those with most keys first. A slot is 64 rows of a sequence
// in stats; a sequence has an even number of them. Scratch: f32 stats [slots, heads, 2, 64]; f32 partial [keyTiles, kvHeads, parts,
// 2, 128, headDim] if parts > 1; i32 counters [keyTiles, kvHeads, 2]. Nothing needs to be zero before.
#include "wgmma.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif

constexpr int WARPGROUPS = 2, STAY = 64 * WARPGROUPS, FLOW = 64, STAGES = 4, SLABS = HEAD_DIM / 64;
constexpr int STAY_BYTES = STAY * HEAD_DIM * 2, FLOW_BYTES = FLOW * HEAD_DIM * 2, STATS_BYTES = 2 * FLOW * 4;
constexpr int STAGE_BYTES = 2 * FLOW_BYTES, STAGE_OFFSET = 2 * STAY_BYTES, STATS_OFFSET = STAGE_OFFSET + STAGES * STAGE_BYTES;
constexpr int BARRIER_OFFSET = STATS_OFFSET + STAGES * STATS_BYTES;
// The launch's dynamic shared memory is BARRIER_OFFSET + 128 + 1024 bytes; the last 1024 are for alignment.
constexpr float SCALE = HEAD_DIM == 64 ? 0.125f : 0.08838834764831845f;
constexpr float SCALE_LOG2E = (float)((HEAD_DIM == 64 ? 0.125 : 0.08838834764831845) * 1.4426950408889634);
constexpr float LOG2E = 1.4426950408889634f;
constexpr int QUADS = HEAD_DIM / 8, PART = 2 * WARPGROUPS * QUADS * 128; // float4 of an accumulator a thread, and of a part

struct alignas(16) Tile {
  int row, length, position, slot;
};

struct Barriers {
  u32 base;
  __device__ u32 stay() const { return base; }
  __device__ u32 full(int stage) const { return base + 8 + 8 * stage; }
  __device__ u32 empty(int stage) const { return base + 8 + 8 * (STAGES + stage); }
};

template <bool value> struct Flag {
  static constexpr bool is = value;
};

// One block of 256 threads a tile of 128 rows and a head. Queries after the sequence's end get lse = inf: no probability.
extern "C" __global__ void __launch_bounds__(256)
    attention_backward_stats(const bf16 *dy, const bf16 *y, const float *lse, const Tile *tiles, int heads, float *stats, int *counters,
                             int counterCount) {
  constexpr int LANES = HEAD_DIM / 8, ROWS = 256 / LANES;
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < counterCount) counters[i] = 0;
  __shared__ float sums[STAY];
  const Tile tile = tiles[blockIdx.x / heads];
  const int head = blockIdx.x % heads, lane = threadIdx.x % LANES, rows = tile.length - tile.position;
#pragma unroll
  for (int row = threadIdx.x / LANES; row < STAY; row += ROWS) {
    float sum = 0;
    if (row < rows) {
      const i64 offset = ((i64)(tile.row + tile.position + row) * heads + head) * HEAD_DIM + lane * 8;
      const Pack<bf16> a = *(const Pack<bf16> *)(dy + offset), b = *(const Pack<bf16> *)(y + offset);
#pragma unroll
      for (int e = 0; e < 8; e++) sum = __fmaf_rn(to_float(a.at[e]), to_float(b.at[e]), sum);
    }
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) sums[row] = sum;
  }
  __syncthreads();
  const int row = threadIdx.x;
  if (row < STAY) {
    float *out = stats + ((i64)(tile.slot + tile.position / FLOW + row / FLOW) * heads + head) * (2 * FLOW) + row % FLOW;
    out[0] = row < rows ? lse[(i64)(tile.row + tile.position + row) * heads + head] * LOG2E : __int_as_float(0x7f800000);
    out[FLOW] = sums[row];
  }
}

// What a block does.
template <bool keysStay> struct Unit {
  Tile tile;
  int head, heads, kvHead; // the first query head, and how many
  int first, tiles;        // the first flowing position, and tiles a head

  // Read anew wherever it is needed: cheaper than registers that live through the main loop.
  __device__ __forceinline__ Unit(const Tile *list, int unit, int allHeads, int kvHeads, int parts) {
    const int group = allHeads / kvHeads, each = keysStay ? kvHeads * parts : allHeads;
    asm volatile("ld.global.v4.s32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tile.row), "=r"(tile.length), "=r"(tile.position), "=r"(tile.slot)
                 : "l"(list + unit / each));
    if (keysStay) {
      const int part = unit % parts;
      kvHead = unit % each / parts;
      head = kvHead * group + group * part / parts;
      heads = kvHead * group + group * (part + 1) / parts - head;
      first = tile.position;
      tiles = (tile.length - first + FLOW - 1) / FLOW;
    } else {
      head = unit % each;
      heads = 1;
      kvHead = head / group;
      first = 0;
      tiles = (min(tile.position + STAY, tile.length) + FLOW - 1) / FLOW;
    }
  }
};

template <int rows>
__device__ __forceinline__ void load_rows(u32 shared, const TensorMap &map, int column, int row, u32 barrier) {
#pragma unroll
  for (int i = 0; i < SLABS * (rows / 64); i++)
    tma_load(shared + i * 8192, map, column + i / (rows / 64) * 64, row + i % (rows / 64) * 64, barrier);
}

template <bool keysStay>
__device__ __forceinline__ void produce(const TensorMap &x, const TensorMap &dy, const Unit<keysStay> unit, int heads, int kvHeads,
                                        const float *stats, u32 shared, Barriers barriers) {
  const int keyColumn = (heads + unit.kvHead) * HEAD_DIM, valueColumn = keyColumn + kvHeads * HEAD_DIM, row = unit.tile.row;
  const int queryColumn = unit.head * HEAD_DIM;
  barrier_expect(barriers.stay(), 2 * STAY_BYTES);
  load_rows<STAY>(shared, x, keysStay ? keyColumn : queryColumn, row + unit.tile.position, barriers.stay());
  load_rows<STAY>(shared + STAY_BYTES, keysStay ? x : dy, keysStay ? valueColumn : queryColumn, row + unit.tile.position, barriers.stay());
  int n = 0;
#pragma unroll 1
  for (int head = unit.head; head < unit.head + unit.heads; head++)
#pragma unroll 1
    for (int m = 0; m < unit.tiles; m++, n++) {
      const int stage = n % STAGES, at = unit.first + m * FLOW;
      const u32 flow = shared + STAGE_OFFSET + stage * STAGE_BYTES, full = barriers.full(stage);
      barrier_wait(barriers.empty(stage), n / STAGES & 1 ^ 1);
      barrier_expect(full, STAGE_BYTES + (keysStay ? STATS_BYTES : 0));
      load_rows<FLOW>(flow, x, keysStay ? head * HEAD_DIM : keyColumn, row + at, full);
      load_rows<FLOW>(flow + FLOW_BYTES, keysStay ? dy : x, keysStay ? head * HEAD_DIM : valueColumn, row + at, full);
      if (keysStay)
        bulk_load(shared + STATS_OFFSET + stage * STATS_BYTES, stats + ((i64)(unit.tile.slot + at / FLOW) * heads + head) * (2 * FLOW),
                  STATS_BYTES, full);
    }
}

// d [64, FLOW] = a b^T over the head's dimensions; a is in slabs of STAY rows, b of FLOW.
__device__ __forceinline__ void scores(float (&d)[FLOW / 2], u64 a, u64 b) {
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 16; i++)
    wgmma_shared<0, 0>(d, a + (i / 4 * STAY * 128 + i % 4 * 32 >> 4), b + (i / 4 * FLOW * 128 + i % 4 * 32 >> 4), i > 0);
}

// d [64, HEAD_DIM] += p b over the FLOW rows of b.
__device__ __forceinline__ void weigh(float (&d)[HEAD_DIM / 2], const u32 (&p)[FLOW / 4], u64 b) {
#pragma unroll
  for (int i = 0; i < FLOW / 16; i++) wgmma_registers<1>(d, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], b + (i * 2048 >> 4), 1);
}

__device__ __forceinline__ void pack(u32 (&p)[FLOW / 4], const float (&s)[FLOW / 2]) {
#pragma unroll
  for (int i = 0; i < FLOW / 4; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

__device__ __forceinline__ float2 load_pair(u32 shared) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(shared));
  return pair;
}

// Read anew wherever it is needed, as Unit is.
__device__ __forceinline__ int thread_now() {
  int x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}

// Writes a warp's 16 rows, the first `rows` of them, through its own 2 KiB of each slab at `own`, 16 bytes a lane.
__device__ __forceinline__ void write_rows(const float (&d)[HEAD_DIM / 2], float scale, char *own, bf16 *out, i64 pitch, int rows) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++) {
      const int row = lane / 4 + 8 * half;
      *(u32 *)(own + j / 8 * STAY * 128 + row * 128 + (j % 8 ^ row % 8) * 16 + lane % 4 * 4) =
          pack_bf16(d[4 * j + 2 * half] * scale, d[4 * j + 2 * half + 1] * scale);
    }
  __syncwarp();
#pragma unroll
  for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = 4 * i + lane / 8;
      const uint4 values = *(const uint4 *)(own + slab * STAY * 128 + row * 128 + (lane % 8 ^ row % 8) * 16);
      if (row < rows) *(uint4 *)(out + row * pitch + slab * 64 + lane % 8 * 8) = values;
    }
}

__device__ __forceinline__ void store_part(float4 *part, const float (&d)[HEAD_DIM / 2]) {
#pragma unroll
  for (int i = 0; i < QUADS; i++) __stcg(part + i * 128, make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
}

__device__ __forceinline__ void add_part(float (&d)[HEAD_DIM / 2], const float4 *part) {
#pragma unroll
  for (int i = 0; i < QUADS; i++) {
    const float4 more = __ldcg(part + i * 128);
    d[4 * i] += more.x;
    d[4 * i + 1] += more.y;
    d[4 * i + 2] += more.z;
    d[4 * i + 3] += more.w;
  }
}

__device__ __forceinline__ void clear(float (&d)[HEAD_DIM / 2]) {
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 2; i++) d[i] = 0;
}

// The warpgroup's sums over all parts, in order; false unless this is the last of them to come. `partial` is the parts' first.
__device__ __forceinline__ bool sum_parts(float (&a)[HEAD_DIM / 2], float (&b)[HEAD_DIM / 2], float4 *partial, int *counter, int part, int parts,
                                          int warpgroup, volatile int *message) {
  const int thread = threadIdx.x % 128;
  float4 *at = partial + warpgroup * 2 * QUADS * 128 + thread;
  store_part(at + (i64)part * PART, a);
  store_part(at + (i64)part * PART + QUADS * 128, b);
  __threadfence();
  named_sync(1 + warpgroup, 128);
  if (thread == 0) *message = atomicAdd(counter, 1);
  named_sync(1 + warpgroup, 128);
  if (*message != parts - 1) return false;
  __threadfence();
  clear(a);
  clear(b);
#pragma unroll 1
  for (int from = 0; from < parts; from++, at += PART) {
    add_part(a, at);
    add_part(b, at + QUADS * 128);
  }
  return true;
}

template <bool keysStay>
__device__ __forceinline__ void consume(const Tile *list, int block, int heads, int kvHeads, int parts, const float *stats, float4 *partial,
                                        int *counters, bf16 *dx, u32 shared, char *memory, Barriers barriers) {
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), warpgroup = warp / 4;
  const u64 stay1 = descriptor(shared + warpgroup * 8192, FLOW * 128), stay2 = stay1 + (STAY_BYTES >> 4);
  const u64 flow1 = descriptor(shared + STAGE_OFFSET, FLOW * 128), flow2 = flow1 + (FLOW_BYTES >> 4);
  // Positions in the loop count from the warpgroup's first staying row.
  int flow, begin, end, count; // of the flowing tile, of those of a head; tiles of all heads
  float s[FLOW / 2], dp[FLOW / 2], first[HEAD_DIM / 2], second[keysStay ? HEAD_DIM / 2 : 1]; // dk or dq; dv
  u32 ds[FLOW / 4];                                                                          // probabilities, too
  float lse[2], delta[2];
  {
    const Unit<keysStay> unit(list, block, heads, kvHeads, parts);
    const int base = unit.tile.position + 64 * warpgroup;
    flow = begin = unit.first - base;
    end = begin + unit.tiles * FLOW;
    count = unit.heads * unit.tiles;
    if (base >= unit.tile.length) { // no row
      for (int n = 0; n < count; n++) {
        barrier_wait(barriers.full(n % STAGES), n / STAGES & 1);
        if (threadIdx.x % 32 == 0) barrier_arrive(barriers.empty(n % STAGES));
      }
      return;
    }
    if (!keysStay) {
      count = min(count, base / FLOW + 1); // the first warpgroup sees less
      const float *of = stats + ((i64)(unit.tile.slot + base / FLOW) * heads + unit.head) * (2 * FLOW) + warp % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        lse[half] = of[8 * half];
        delta[half] = of[8 * half + FLOW];
      }
    }
  }
  clear(first);
  if constexpr (keysStay) clear(second);

  int n = 0, before = 0; // of tile and stage; stage of the tile before
  // Probabilities, dv and the scores' gradient ds; ds of the tile before goes into dk or dq.
  const auto step = [&](auto opens) {
    const int stage = n % STAGES;
    const u64 at = stage * STAGE_BYTES >> 4;
    const u32 column = shared + STATS_OFFSET + stage * STATS_BYTES + thread_now() % 4 * 8;
    barrier_wait(barriers.full(stage), n / STAGES & 1);
    if (keysStay && flow < 0) { // all before the warpgroup's keys
      if (thread_now() % 32 == 0) barrier_arrive(barriers.empty(stage));
      n++;
      flow += FLOW;
      return;
    }
    hold(s);
    hold(dp);
    hold(ds);
    hold(first);
    hold(second);
    wgmma_fence();
    scores(s, stay1, flow1 + at);
    wgmma_commit();
    if (!keysStay) {
      scores(dp, stay2, flow2 + at);
      wgmma_commit();
    }
    if (!opens.is) {
      weigh(first, ds, flow1 + (before * STAGE_BYTES >> 4));
      wgmma_commit();
    }
    if (keysStay) {
      scores(dp, stay2, flow2 + at);
      wgmma_commit();
    }
    wgmma_wait<opens.is ? 1 : 2>();
    hold(s);
#pragma unroll
    for (int j = 0; j < FLOW / 8; j++) {
      const float2 l = keysStay ? load_pair(column + j * 32) : float2{};
#pragma unroll
      for (int i = 0; i < 4; i++)
        s[4 * j + i] = exp2_fast(__fmaf_rn(s[4 * j + i], SCALE_LOG2E, -(keysStay ? i % 2 ? l.y : l.x : lse[i / 2])));
    }
    if (keysStay ? flow < 64 : flow + FLOW > 0) {
      const int thread = thread_now(), diagonal = thread % 128 / 32 * 16 + thread % 32 / 4 - thread % 4 * 2 - flow;
#pragma unroll
      for (int i = 0; i < FLOW / 2; i++) {
        const int column = i / 4 * 8 + i % 2, row = diagonal + i / 2 % 2 * 8;
        if (keysStay ? column < row : column > row) s[i] = 0;
      }
    }
    hold(s);
    if constexpr (keysStay) {
      wgmma_wait<1>();
      hold(ds);
      if (!opens.is && thread_now() % 32 == 0) barrier_arrive(barriers.empty(before));
      pack(ds, s);
      hold(ds);
      wgmma_fence();
      weigh(second, ds, flow2 + at);
      wgmma_commit();
    }
    // With 128 dimensions ptxas has no registers for a product under way here, and would serialize all (note C7512).
    wgmma_wait<opens.is && !keysStay ? 0 : HEAD_DIM == 64>();
    hold(dp);
#pragma unroll
    for (int j = 0; j < FLOW / 8; j++) {
      const float2 d = keysStay ? load_pair(column + FLOW * 4 + j * 32) : float2{};
#pragma unroll
      for (int i = 0; i < 4; i++) s[4 * j + i] *= dp[4 * j + i] - (keysStay ? i % 2 ? d.y : d.x : delta[i / 2]);
    }
    hold(s);
    wgmma_wait<0>();
    hold(ds);
    if (!keysStay && !opens.is && thread_now() % 32 == 0) barrier_arrive(barriers.empty(before));
    pack(ds, s);
    before = stage;
    n++;
    flow += FLOW;
    if (keysStay && flow >= end) flow = begin;
  };
  barrier_wait(barriers.stay(), 0);
  if (keysStay && flow < 0) {
    barrier_wait(barriers.full(0), 0);
    if (thread_now() % 32 == 0) barrier_arrive(barriers.empty(0));
    n++;
    flow += FLOW;
  }
  step(Flag<true>());
  while (n < count) step(Flag<false>());
  hold(ds);
  hold(first);
  wgmma_fence();
  weigh(first, ds, flow1 + (before * STAGE_BYTES >> 4));
  wgmma_commit();
  wgmma_wait<0>();
  hold(first);
  if constexpr (keysStay) {
    hold(second);
    const int group = block / parts;
    if (parts > 1 && !sum_parts(first, second, partial + (i64)group * parts * PART, counters + group * WARPGROUPS + warpgroup, block % parts,
                                parts, warpgroup, (int *)(memory + BARRIER_OFFSET + 96) + warpgroup))
      return;
  }

  const Unit<keysStay> unit(list, block, heads, kvHeads, parts);
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const int row = unit.tile.position + warp * 16, rows = unit.tile.length - row;
  bf16 *out = dx + (unit.tile.row + row) * width + (keysStay ? heads + unit.kvHead : unit.head) * HEAD_DIM;
  char *own = memory + warp * 2048;
  write_rows(first, SCALE, own, out, width, rows);
  if constexpr (keysStay) write_rows(second, 1, own, out + kvHeads * HEAD_DIM, width, rows);
}

template <bool keysStay>
__device__ __forceinline__ void run(const TensorMap &x, const TensorMap &dy, const Tile *tiles, int block, int heads, int kvHeads, int parts,
                                    const float *stats, float4 *partial, int *counters, bf16 *dx, u32 shared, char *memory,
                                    Barriers barriers) {
  if (threadIdx.x >= WARPGROUPS * 128) {
    registers_give<24>();
    if (threadIdx.x == WARPGROUPS * 128)
      produce(x, dy, Unit<keysStay>(tiles, block, heads, kvHeads, parts), heads, kvHeads, stats, shared, barriers);
  } else {
    registers_take<240>();
    consume<keysStay>(tiles, block, heads, kvHeads, parts, stats, partial, counters, dx, shared, memory, barriers);
  }
}

// Grid: keyBlocks = keyTiles kvHeads parts, and queryTiles heads after them; (WARPGROUPS + 1) * 128 threads. The maps' box is 64
// columns by 64 rows of x and of dy, with the 128-byte swizzle.
extern "C" __global__ void __launch_bounds__((WARPGROUPS + 1) * 128, 1)
    attention_backward(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy, const Tile *keyTiles, const Tile *queryTiles,
                       int keyBlocks, int heads, int kvHeads, int parts, const float *stats, float4 *partial, int *counters, bf16 *dx) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char unaligned[];
  const u32 shared = shared_address(unaligned) + 1023 & ~1023u;
  char *memory = unaligned + (shared - shared_address(unaligned));
  const Barriers barriers{shared + BARRIER_OFFSET};
  if (threadIdx.x == 0) {
    barrier_init(barriers.stay(), 1);
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(barriers.full(stage), 1);
      barrier_init(barriers.empty(stage), 4 * WARPGROUPS);
    }
    barrier_init_fence();
  }
  __syncthreads();
  const int block = blockIdx.x;
  if (block < keyBlocks)
    run<true>(x, dy, keyTiles, block, heads, kvHeads, parts, stats, partial, counters, dx, shared, memory, barriers);
  else
    run<false>(x, dy, queryTiles, block - keyBlocks, heads, kvHeads, 1, stats, partial, counters, dx, shared, memory, barriers);
#endif
}
