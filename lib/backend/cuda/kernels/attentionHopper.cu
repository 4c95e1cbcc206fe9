// Causal attention over packed sequences, forward, with grouped queries, on Hopper's tensor cores.
//
// x [tokens, (heads + 2 kvHeads) headDim] holds in each row all query heads, then key heads, then value heads. Query head h
// reads key head floor(h kvHeads / heads). y [tokens, heads headDim]; lse [tokens, heads] is the natural log of the sum of
// exponentials of the scaled scores.
//
// Work list: per tile four i32 {first row of the sequence in x, its length, first query position of the tile (a multiple of
// ROWS, less than the length), 0}, the tiles with most keys first. A unit of work is a tile and a head; units are dealt to the
// blocks of the grid in snake order, so a grid of one block a multiprocessor is balanced.
//
// The result of a row depends on its query and on the keys and values at positions 0 to its own, never on the tile, the batch or
// the grid. Arithmetic, in f32, every operation rounded once as written (c = headDim^-0.5 log2(e), rounded to f32):
//
//   chunk   keys [512 i, 512 (i + 1)) of the sequence, in tiles of 128 keys, starting from m = -inf, l = 0, o = nothing
//   tile    s = q k, by wgmma, 16 dimensions at a time in order, the first without accumulator
//           m' = max(m, s of the visible keys);  z = m' * c;  alpha = exp2((m - m') * c)
//           p = exp2(fma(s, c, -z)), 0 for keys after the query
//           lane t = 0..3 sums its keys {8 j + 2 t + e}: u(e) = p(j = 0) + p(j = 1) + ... in order;
//           l(t) = fma(l(t), alpha, u(0) + u(1))
//           o = (o * alpha), then += bf16(p) v by wgmma, 16 keys at a time in order; a chunk's first without accumulator
//   chunk's end   l = (l(0) + l(1)) + (l(2) + l(3))
//   merge   the first chunk is the running (M, L, O). Then M' = max(M, m);  a = exp2((M - M') * c);  b = exp2((m - M') * c);
//           L' = fma(L, a, l * b);  O' = fma(O, a, o * b)
//   end     y = bf16(O * (1 / L));  lse = fma(log2(L), ln 2, M * headDim^-0.5)
//
// exp2 and log2 are ex2.approx.ftz and lg2.approx.ftz. A tile of which a row sees no key would change none of its bits, nor do
// the later keys of a tile, whatever sequence they are of, as long as they are finite: they are weighed with 0.
#include "wgmma.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef WARPGROUPS // that compute, 64 query rows each
#define WARPGROUPS (HEAD_DIM == 64 ? 3 : 2)
#endif

constexpr int ROWS = 64 * WARPGROUPS, KEYS = 128, STAGES = 2, CHUNK_TILES = 512 / KEYS, SLABS = HEAD_DIM / 64;
// Two warpgroups take turns in issuing matrix products, so that one's softmax runs beside the other's products; three do
// better unordered.
constexpr bool TURNS = WARPGROUPS == 2;
constexpr int Q_BYTES = ROWS * HEAD_DIM * 2, KV_BYTES = KEYS * HEAD_DIM * 2;
constexpr int K_OFFSET = Q_BYTES, V_OFFSET = K_OFFSET + STAGES * KV_BYTES, RUNNING_OFFSET = V_OFFSET + STAGES * KV_BYTES;
[[maybe_unused]] constexpr int BARRIER_OFFSET = RUNNING_OFFSET + ROWS * HEAD_DIM * 4;
// The launch's dynamic shared memory is BARRIER_OFFSET + 128 + 1024 bytes; the last 1024 are for alignment.
constexpr float SCALE = HEAD_DIM == 64 ? 0.125f : 0.08838834764831845f;
constexpr float SCALE_LOG2E = (float)((HEAD_DIM == 64 ? 0.125 : 0.08838834764831845) * 1.4426950408889634);
constexpr float LN2 = 0.6931471805599453f;
#define NEGATIVE_INFINITY __int_as_float(0xff800000)

struct alignas(16) Tile {
  int row, length, position, reserved;
};

// Each barrier is 8 bytes; full barriers take one arrival and the copy's bytes, empty ones an arrival of each computing warp.
struct Barriers {
  u32 base;
  __device__ u32 qFull() const { return base; }
  __device__ u32 qEmpty() const { return base + 8; }
  __device__ u32 kFull(int stage) const { return base + 16 + 8 * stage; }
  __device__ u32 kEmpty(int stage) const { return base + 16 + 8 * (STAGES + stage); }
  __device__ u32 vFull(int stage) const { return base + 16 + 8 * (2 * STAGES + stage); }
  __device__ u32 vEmpty(int stage) const { return base + 16 + 8 * (3 * STAGES + stage); }
};

// The unit that this block does in this round; blocks take turns in snake order.
__device__ __forceinline__ int unit_of(int round) {
  const int block = round & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
  return round * gridDim.x + block;
}

__device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }

__device__ __forceinline__ int tiles_until(int position, int length) {
  return (min_of(position, length) - 1) / KEYS + 1;
}

template <int rows>
__device__ __forceinline__ void load_rows(u32 shared, const TensorMap &map, int column, int row, u32 barrier) {
  barrier_expect(barrier, rows * HEAD_DIM * 2);
#pragma unroll
  for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
    for (int part = 0; part < rows / 64; part++)
      tma_load(shared + slab * rows * 128 + part * 8192, map, column + slab * 64, row + part * 64, barrier);
}

__device__ __forceinline__ void produce(const TensorMap &map, const Tile *tiles, int units, int heads, int kvHeads, u32 shared,
                                        Barriers barriers) {
  int count = 0, round = 0;
  for (int done = 0; round * (int)gridDim.x < units; round++) {
    const int unit = unit_of(round);
    if (unit >= units) continue;
    const Tile tile = tiles[unit / heads];
    const int head = unit % heads, kvHead = head * kvHeads / heads;
    const int keyColumn = (heads + kvHead) * HEAD_DIM, valueColumn = keyColumn + kvHeads * HEAD_DIM;
    const int keyTiles = tiles_until(tile.position + ROWS, tile.length);
    barrier_wait(barriers.qEmpty(), done & 1 ^ 1);
    load_rows<ROWS>(shared, map, head * HEAD_DIM, tile.row + tile.position, barriers.qFull());
#pragma unroll 1
    for (int n = 0; n <= keyTiles; n++) {
      if (n < keyTiles) {
        const int stage = (count + n) % STAGES, parity = (count + n) / STAGES & 1;
        barrier_wait(barriers.kEmpty(stage), parity ^ 1);
        load_rows<KEYS>(shared + K_OFFSET + stage * KV_BYTES, map, keyColumn, tile.row + n * KEYS, barriers.kFull(stage));
      }
      if (n > 0) {
        const int stage = (count + n - 1) % STAGES, parity = (count + n - 1) / STAGES & 1;
        barrier_wait(barriers.vEmpty(stage), parity ^ 1);
        load_rows<KEYS>(shared + V_OFFSET + stage * KV_BYTES, map, valueColumn, tile.row + (n - 1) * KEYS, barriers.vFull(stage));
      }
    }
    count += keyTiles;
    done++;
  }
}

// Sets the scores of keys after the query to -inf; `visible` is the last visible column of this thread's first row less 2 t.
__device__ __forceinline__ void mask(float (&s)[KEYS / 2], int visible) {
#pragma unroll
  for (int i = 0; i < KEYS / 2; i++)
    if (i / 4 * 8 + i % 2 > visible + (i / 2 % 2) * 8) s[i] = NEGATIVE_INFINITY;
}

// Turns scores into probabilities relative to the new maximum, and advances m and l; alpha scales what came before.
__device__ __forceinline__ void softmax(float (&s)[KEYS / 2], float (&m)[2], float (&l)[2], float (&alpha)[2]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float a = fmaxf(m[half], s[2 * half]), b = s[2 * half + 1];
#pragma unroll
    for (int j = 1; j < KEYS / 8; j++) {
      a = fmaxf(a, s[4 * j + 2 * half]);
      b = fmaxf(b, s[4 * j + 2 * half + 1]);
    }
    float top = fmaxf(a, b);
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    alpha[half] = exp2_fast(__fmul_rn(__fsub_rn(m[half], top), SCALE_LOG2E));
    m[half] = top;
    const float z = __fmul_rn(top, SCALE_LOG2E);
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float &p = s[4 * j + 2 * half + e];
        p = exp2_fast(__fmaf_rn(p, SCALE_LOG2E, -z));
      }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float u[2] = {s[2 * half], s[2 * half + 1]};
#pragma unroll
    for (int j = 1; j < KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) u[e] = __fadd_rn(u[e], s[4 * j + 2 * half + e]);
    l[half] = __fmaf_rn(l[half], alpha[half], __fadd_rn(u[0], u[1]));
  }
}

__device__ __forceinline__ float quad_sum(float x) {
  x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The running (M, L, O); O lies in shared memory, in 16-byte slots that belong to one thread each.
struct Running {
  float m[2], l[2];
  float4 *slots;

  // Merges a chunk, of which o is all and l this lane's part. Leaves O in o, and in the slots unless it is the last.
  template <bool last>
  __device__ __forceinline__ void merge(bool first, float (&o)[HEAD_DIM / 2], const float (&chunkM)[2], const float (&chunkL)[2]) {
    if (first) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        m[half] = chunkM[half];
        l[half] = quad_sum(chunkL[half]);
      }
    } else {
      float a[2], b[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float top = fmaxf(m[half], chunkM[half]);
        a[half] = exp2_fast(__fmul_rn(__fsub_rn(m[half], top), SCALE_LOG2E));
        b[half] = exp2_fast(__fmul_rn(__fsub_rn(chunkM[half], top), SCALE_LOG2E));
        m[half] = top;
        l[half] = __fmaf_rn(l[half], a[half], __fmul_rn(quad_sum(chunkL[half]), b[half]));
      }
#pragma unroll
      for (int i = 0; i < HEAD_DIM / 8; i++) {
        const float4 before = slots[i * 32];
        o[4 * i] = __fmaf_rn(before.x, a[0], __fmul_rn(o[4 * i], b[0]));
        o[4 * i + 1] = __fmaf_rn(before.y, a[0], __fmul_rn(o[4 * i + 1], b[0]));
        o[4 * i + 2] = __fmaf_rn(before.z, a[1], __fmul_rn(o[4 * i + 2], b[1]));
        o[4 * i + 3] = __fmaf_rn(before.w, a[1], __fmul_rn(o[4 * i + 3], b[1]));
      }
    }
    if (!last)
#pragma unroll
      for (int i = 0; i < HEAD_DIM / 8; i++) slots[i * 32] = make_float4(o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3]);
  }
};

__device__ __forceinline__ void turn_begin(int warpgroup) {
  if (TURNS) named_sync(1 + warpgroup, 256);
}
__device__ __forceinline__ void turn_end(int warpgroup) {
  if (TURNS) named_arrive(1 + (warpgroup + 1) % 2, 256);
}

// Issues s = q k.
__device__ __forceinline__ void scores(float (&s)[KEYS / 2], u64 q, u64 k) {
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 16; i++)
    wgmma_shared<0, 0>(s, q + (i / 4 * ROWS * 128 + i % 4 * 32 >> 4), k + (i / 4 * KEYS * 128 + i % 4 * 32 >> 4), i > 0);
  wgmma_commit();
}

// Issues o += p v, or o = p v.
__device__ __forceinline__ void weigh(float (&o)[HEAD_DIM / 2], const u32 (&p)[KEYS / 4], u64 v, int accumulate) {
#pragma unroll
  for (int i = 0; i < KEYS / 16; i++)
    wgmma_registers<1>(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], v + (i * 2048 >> 4), i > 0 ? 1 : accumulate);
  wgmma_commit();
}

__device__ __forceinline__ void consume(const Tile *tiles, int units, int heads, bf16 *y, float *lse, u32 shared, char *memory,
                                        Barriers barriers) {
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), warpgroup = warp / 4, lane = threadIdx.x % 32;
  const u64 q = descriptor(shared + warpgroup * 8192), k = descriptor(shared + K_OFFSET), v = descriptor(shared + V_OFFSET, KEYS * 128);
  char *own = memory + RUNNING_OFFSET + warp * (16 * HEAD_DIM * 4);
  Running running;
  running.slots = (float4 *)own + lane;
  const auto arrive = [&](u32 barrier) {
    if (lane == 0) barrier_arrive(barrier);
  };

  if (TURNS && warpgroup == WARPGROUPS - 1) turn_end(warpgroup);
  int count = 0, done = 0; // key tiles and units so far
  Tile next = tiles[min_of(unit_of(0), units - 1) / heads];
  for (int round = 0; round * (int)gridDim.x < units; round++) {
    const int unit = unit_of(round);
    const Tile tile = next;
    next = tiles[min_of(unit_of(round + 1), units - 1) / heads];
    if (unit >= units) continue;
    const int head = unit % heads;
    const int first = tile.position + 64 * warpgroup; // the warpgroup's first query position
    const int allTiles = tiles_until(tile.position + ROWS, tile.length);
    const int keyTiles = first < tile.length ? tiles_until(first + 64, tile.length) : 0;
    const int position = first + warp % 4 * 16 + lane / 4; // of this thread's first row; the second is 8 on

    barrier_wait(barriers.qFull(), done & 1);
    if (keyTiles > 0) {
      float s[KEYS / 2], o[HEAD_DIM / 2], m[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, l[2] = {0, 0}, alpha[2];
      float chunkM[2], chunkL[2]; // of the chunk that has ended
      u32 p[KEYS / 4];
      barrier_wait(barriers.kFull(count % STAGES), count / STAGES & 1);
      wgmma_fence();
      scores(s, q, k + (count % STAGES * KV_BYTES >> 4));
      wgmma_wait<0>();
      hold(s);
      arrive(barriers.kEmpty(count % STAGES));
      if (keyTiles == 1) mask(s, position - lane % 4 * 2);
      softmax(s, m, l, alpha);
#pragma unroll
      for (int i = 0; i < KEYS / 4; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
      barrier_wait(barriers.vFull(count % STAGES), count / STAGES & 1);

      // The scores of tile n beside the weighing of tile n - 1, then the softmax of tile n beside the weighing.
#pragma unroll 1
      for (int n = 1; n < keyTiles; n++) {
        const int now = count + n, stage = now % STAGES, before = (now - 1) % STAGES;
        barrier_wait(barriers.kFull(stage), now / STAGES & 1);
        turn_begin(warpgroup);
        hold(s);
        hold(o);
        hold(p);
        wgmma_fence();
        scores(s, q, k + (stage * KV_BYTES >> 4));
        weigh(o, p, v + (before * KV_BYTES >> 4), (n - 1) % CHUNK_TILES != 0);
        turn_end(warpgroup);
        wgmma_wait<1>();
        hold(s);
        arrive(barriers.kEmpty(stage));
        if (n == keyTiles - 1) mask(s, position - n * KEYS - lane % 4 * 2);
        const bool opens = n % CHUNK_TILES == 0;
        if (opens) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            chunkM[i] = m[i];
            chunkL[i] = l[i];
            m[i] = NEGATIVE_INFINITY;
            l[i] = 0;
          }
        }
        softmax(s, m, l, alpha);
        // The next step's values are awaited here, and the signs of l (always 0) go into the parity, because ptxas, where it has
        // the registers, would otherwise move the softmax behind the wait for the products that it should run beside.
        hold(s);
        hold(l);
        barrier_wait(barriers.vFull(stage), (now / STAGES & 1) + (TURNS ? (__float_as_uint(l[0]) | __float_as_uint(l[1])) >> 31 : 0));
        wgmma_wait<0>();
        hold(o);
        arrive(barriers.vEmpty(before));
        if (!opens) {
#pragma unroll
          for (int i = 0; i < HEAD_DIM / 2; i++) o[i] = __fmul_rn(o[i], alpha[i / 2 % 2]);
        } else {
          running.merge<false>(n == CHUNK_TILES, o, chunkM, chunkL);
        }
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
      }
      arrive(barriers.qEmpty());

      const int last = count + keyTiles - 1;
      hold(o);
      hold(p);
      wgmma_fence();
      weigh(o, p, v + (last % STAGES * KV_BYTES >> 4), (keyTiles - 1) % CHUNK_TILES != 0);
      wgmma_wait<0>();
      hold(o);
      arrive(barriers.vEmpty(last % STAGES));
      running.merge<true>(keyTiles <= CHUNK_TILES, o, m, l);

      // Through the warp's slots, so that rows are written 16 bytes a lane; 16-byte columns are swizzled by the row.
      __syncwarp();
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float inverse = __frcp_rn(running.l[half]);
        const int row = lane / 4 + 8 * half;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++)
          *(u32 *)(own + row * HEAD_DIM * 2 + (j ^ row % 8) * 16 + lane % 4 * 4) =
              pack_bf16(__fmul_rn(o[4 * j + 2 * half], inverse), __fmul_rn(o[4 * j + 2 * half + 1], inverse));
        if (lane % 4 == 0 && position + 8 * half < tile.length)
          lse[(i64)(tile.row + position + 8 * half) * heads + head] =
              __fmaf_rn(log2_fast(running.l[half]), LN2, __fmul_rn(running.m[half], SCALE));
      }
      __syncwarp();
      constexpr int LANES = HEAD_DIM / 8; // a row
#pragma unroll
      for (int i = 0; i < 16 * LANES / 32; i++) {
        const int row = i * (32 / LANES) + lane / LANES, at = first + warp % 4 * 16 + row;
        const uint4 values = *(const uint4 *)(own + row * HEAD_DIM * 2 + (lane % LANES ^ row % 8) * 16);
        if (at < tile.length) *(uint4 *)(y + ((i64)(tile.row + at) * heads + head) * HEAD_DIM + lane % LANES * 8) = values;
      }
      __syncwarp();
    } else {
      arrive(barriers.qEmpty());
    }

    // Key tiles of which only later warpgroups see anything.
#pragma unroll 1
    for (int n = keyTiles; n < allTiles; n++) {
      const int now = count + n;
      if (n > 0) {
        turn_begin(warpgroup);
        turn_end(warpgroup);
      }
      barrier_wait(barriers.kFull(now % STAGES), now / STAGES & 1);
      arrive(barriers.kEmpty(now % STAGES));
      barrier_wait(barriers.vFull(now % STAGES), now / STAGES & 1);
      arrive(barriers.vEmpty(now % STAGES));
    }
    count += allTiles;
    done++;
  }
}

// Grid: one block a multiprocessor or one a unit, whichever is less; (WARPGROUPS + 1) * 128 threads. The map's box is 64 columns
// by 64 rows of x, with the 128-byte swizzle.
extern "C" __global__ void __launch_bounds__((WARPGROUPS + 1) * 128, 1)
    attention_hopper(const __grid_constant__ TensorMap x, const Tile *tiles, int units, int heads, int kvHeads, bf16 *y, float *lse) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char unaligned[];
  const u32 shared = shared_address(unaligned) + 1023 & ~1023u;
  char *memory = unaligned + (shared - shared_address(unaligned));
  const Barriers barriers{shared + BARRIER_OFFSET};
  if (threadIdx.x == 0) {
    barrier_init(barriers.qFull(), 1);
    barrier_init(barriers.qEmpty(), 4 * WARPGROUPS);
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(barriers.kFull(stage), 1);
      barrier_init(barriers.kEmpty(stage), 4 * WARPGROUPS);
      barrier_init(barriers.vFull(stage), 1);
      barrier_init(barriers.vEmpty(stage), 4 * WARPGROUPS);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x >= WARPGROUPS * 128) {
    registers_give<WARPGROUPS == 2 ? 24 : 32>();
    if (threadIdx.x == WARPGROUPS * 128) produce(x, tiles, units, heads, kvHeads, shared, barriers);
  } else {
    registers_take<WARPGROUPS == 2 ? 240 : 160>();
    consume(tiles, units, heads, y, lse, shared, memory, barriers);
  }
#endif
}
