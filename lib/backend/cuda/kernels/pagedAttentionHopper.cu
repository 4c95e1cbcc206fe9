// pagedAttention.cu's chunks of up to 16 flat rows on Hopper, with the same bits: every element's order of operations is that of
// mma_forward. The copy engine brings boxes of BOX_ROWS keys, which lie in one page; those that the kernel before did not write come
// while it ends.
//
// Few chunks: four blocks of a cluster share one, so that four multiprocessors fetch it; a cluster that has both chunks of its rows
// merges them itself. Many: one block has a chunk, through a ring of STAGES units of 64 keys or values.
#include "attentionTile.cuh"
#include "hopper.cuh"

#ifndef BOX_ROWS // of a page; a multiple of 8 that divides 64
#define BOX_ROWS 64
#endif

// A chunk's four tiles of 128 keys are made by a block or warp each; so are the quarters of the output's dimensions.
constexpr int FEW = 16, TILES = CHUNK / KEYS, OWN = HEAD_DIM / TILES, SLABS = HEAD_DIM / 64;
constexpr int P_UNITS = KEYS / 8, P_BYTES = FEW * KEYS * 2;

// What a block does.
struct Work {
  Item item;
  int group, head; // query heads of the key head, and the first of them
  int begin, keys; // the chunk's first key, and how many there are
  int tiles, parts; // of 128 and of 64 keys

  __device__ __forceinline__ Work(const Item &item, int heads, int kvHeads) : item(item) {
    group = heads / kvHeads;
    head = blockIdx.y * group;
    begin = item.chunk * CHUNK;
    keys = min(last_position(item, FEW, group) + 1 - begin, CHUNK);
    tiles = (keys + KEYS - 1) / KEYS;
    parts = (keys + 63) / 64;
  }
  // Flat row of the lane's two rows.
  __device__ __forceinline__ int flat(int half) const { return item.flat + threadIdx.x % 32 / 4 + 8 * half; }
  // The last key that it sees, from `key` of the chunk on.
  __device__ __forceinline__ int visible(int half, int key) const {
    return flat(half) < item.flats ? item.first + flat(half) / group - begin - key : -1;
  }
  // Whether the kernel before may have written some of a box's keys.
  __device__ __forceinline__ bool young(int key) const { return begin + key + BOX_ROWS > item.first; }
  __device__ __forceinline__ int cache_row(const int *pages, int pageSize, int key) const {
    return pages[item.keys + (begin + key) / pageSize] * pageSize + (begin + key) % pageSize;
  }
  // Rows of the boxes that hold `count` keys.
  static __device__ __forceinline__ int boxed(int count) { return (count + BOX_ROWS - 1) / BOX_ROWS * BOX_ROWS; }

  __device__ __forceinline__ void copy_queries(u32 q, const bf16 *x, int heads, int kvHeads) const {
    const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
    copy_rows<FEW, 128>(q, x, threadIdx.x, [&](int row) -> i64 {
      const int number = item.flat + row;
      return number < item.flats ? (item.query + number / group) * width + (head + number % group) * HEAD_DIM : NOWHERE;
    });
    copy_commit();
    copy_wait<0>();
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
          *(u32 *)(to + 8 * j) = pair_bf16(__fmul_rn(o[4 * j + 2 * half], inverse), __fmul_rn(o[4 * j + 2 * half + 1], inverse));
      } else {
        float *to = partial + (((i64)item.slot * kvHeads + blockIdx.y) * FEW + flat(half) - item.flat) * (HEAD_DIM + 2);
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
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pair_bf16(low, high)) : "memory");
}

__device__ __forceinline__ void store_zeros(u32 at) { asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory"); }

// ------------------------------------------------------------------------------------------------------------- a cluster a chunk

constexpr int SLAB_BYTES = KEYS * 128, K_BYTES = SLABS * SLAB_BYTES, V_UNITS = OWN / 8, V_PITCH = OWN * 2, V_BYTES = CHUNK * V_PITCH;
constexpr int STAGED = KEYS + 8; // pitch of probabilities in f32, so that rows lie in different banks
// Dynamic shared memory: k [SLABS][128, 64], v [512, OWN], p [4][16, 128] bf16, q [16, HEAD_DIM], and 1024 for alignment. The
// probabilities in f32 take k's place.
constexpr int V_AT = K_BYTES, P_AT = V_AT + V_BYTES, Q_AT = P_AT + TILES * P_BYTES;

__device__ __forceinline__ u32 of_block(u32 shared, int rank) {
  u32 remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared), "r"(rank));
  return remote;
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ void store_remote(u32 to, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(to), "f"(value) : "memory");
}
// The same, and 4 bytes completed on its barrier.
__device__ __forceinline__ void send(u32 to, float value, u32 barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(__float_as_uint(value)), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void send_bytes(u32 to, u32 from, int bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "r"(from), "r"(bytes),
               "r"(barrier)
               : "memory");
}
// Unit of a row of v, as the copy engine's swizzle of rows of V_PITCH bytes lays it.
__device__ __forceinline__ u32 v_unit(u32 v, int row, int unit) {
  return v + row * V_PITCH + (unit ^ row / (8 / V_UNITS) % V_UNITS) * 16;
}

#ifndef CHUNKS // of a cluster: 1, or 2 that are merged
#define CHUNKS 1
#endif

// Grid (4 CHUNKS sequences, kvHeads); a sequence's next chunk is `stride` items on.
extern "C" __global__ void __cluster_dims__(TILES *CHUNKS, 1, 1) __launch_bounds__(128)
paged_mma_cluster(const bf16 *x, const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map, const int *pages,
                  int pageSize, const Item *items, int stride, int heads, int kvHeads, float plain, float log2e, bf16 *y, float *partial) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[4];
  __shared__ float warp_tops[FEW][4], tops[FEW][TILES], sums[FEW][TILES][4]; // the last [row][tile][lane % 4]
  const u32 k_full = shared_address(barriers), v_full = k_full + 8, tops_full = k_full + 16, p_full = k_full + 24;
  const u32 k = (shared_address(dynamic_shared) + 1023) / 1024 * 1024, v = k + V_AT, p = k + P_AT, q = k + Q_AT;
  const int rank = blockIdx.x % TILES, chunk = blockIdx.x / TILES % CHUNKS, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const Work work(items[blockIdx.x / TILES / CHUNKS + chunk * stride], heads, kvHeads);
  const int keys = work.keys, tiles = work.tiles, parts = work.parts;
  const bool scores = rank < tiles;
  const Scale scale{plain, log2e};
  let_kernel_after_begin();
  if (work.item.query < 0) {
    wait_for_kernel_before();
    return;
  }

  const auto of_tile = [&](u32 shared, int tile) { return of_block(shared, chunk * TILES + tile); };
  // Boxes are numbered: those of the tile's keys, then those of the chunk's values. A warp's lanes bring them.
  const auto bring = [&](bool young) {
    constexpr int K_BOXES = KEYS / BOX_ROWS, BOXES = K_BOXES + CHUNK / BOX_ROWS;
    for (int box = lane; box < BOXES; box += 32) {
      const bool isKey = box < K_BOXES;
      const int row = isKey ? box * BOX_ROWS : (box - K_BOXES) * BOX_ROWS, key = isKey ? rank * KEYS + row : row;
      if (key >= keys || work.young(key) != young) continue;
      const int at = work.cache_row(pages, pageSize, key);
      if (isKey)
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++)
          tma_load(k + slab * SLAB_BYTES + row * 128, k_map, blockIdx.y * HEAD_DIM + 64 * slab, at, k_full);
      else tma_load(v + row * V_PITCH, v_map, (kvHeads + blockIdx.y) * HEAD_DIM + rank * OWN, at, v_full);
    }
  };
  if (warp == 0) {
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < 4; i++) barrier_init(k_full + 8 * i, 1);
      barrier_init_fence();
      if (scores) barrier_expect(k_full, Work::boxed(min(keys - rank * KEYS, KEYS)) * HEAD_DIM * 2);
      barrier_expect(v_full, Work::boxed(keys) * V_PITCH);
      barrier_expect(tops_full, tiles * FEW * 4);
      barrier_expect(p_full, (tiles - scores) * P_BYTES);
    }
    __syncwarp();
    bring(false);
  }
  __syncwarp();
  cluster_arrive(); // barriers are ready
  wait_for_kernel_before();
  if (warp == 0) bring(true);
  __syncwarp();
  work.copy_queries(q, x, heads, kvHeads);
  cluster_wait();
  __syncthreads();

  float s[16]; // of the warp's 32 keys
  if (scores) {
    const int own = rank * KEYS + warp * 32; // the first of them
    float top[2];
#pragma unroll
    for (int i = 0; i < 16; i++) s[i] = 0;
    barrier_wait(k_full, 0);
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      u32 left[4], right[4];
      ldmatrix(left, unit_at(q, lane % 16, 2 * step + lane / 16));
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const int row = warp * 32 + 16 * n + lane % 8 + lane / 16 * 8;
        ldmatrix(right, unit_at<8>(k + step / 4 * SLAB_BYTES, row, 2 * (step % 4) + lane / 8 % 2));
        mma(s + 8 * n, left, right[0], right[1]);
        mma(s + 8 * n + 4, left, right[2], right[3]);
      }
    }
    mma_mask<32>(s, {work.visible(0, own), work.visible(1, own)});
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most = NOTHING;
#pragma unroll
      for (int j = 0; j < 4; j++) most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      top[half] = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      if (t == 0) warp_tops[g + 8 * half][warp] = top[half];
    }
    __syncthreads();
    if (threadIdx.x < FEW * TILES) {
      const int row = threadIdx.x / TILES, to = threadIdx.x % TILES;
      const float most = fmaxf(fmaxf(warp_tops[row][0], warp_tops[row][1]), fmaxf(warp_tops[row][2], warp_tops[row][3]));
      send(of_tile(shared_address(&tops[row][rank]), to), most, of_tile(tops_full, to));
    }
  }
  barrier_wait(tops_full, 0);
  if (scores) {
    float *staged = (float *)((char *)dynamic_shared + (k - shared_address(dynamic_shared)));
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = g + 8 * half;
      float now = tops[row][0];
      for (int tile = 1; tile <= rank; tile++) now = fmaxf(now, tops[row][tile]);
      const float z = now == NOTHING ? 0.f : __fmul_rn(now, scale.log2e);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float2 pair;
        pair.x = fast_exp2(__fmaf_rn(s[4 * j + 2 * half], scale.log2e, -z));
        pair.y = fast_exp2(__fmaf_rn(s[4 * j + 2 * half + 1], scale.log2e, -z));
        *(float2 *)(staged + row * STAGED + warp * 32 + 8 * j + 2 * t) = pair;
        store_pair(p + rank * P_BYTES, row, warp * 4 + j, pair.x, pair.y);
      }
    }
    fence_async_proxy();
    __syncthreads();
    if (threadIdx.x < TILES && threadIdx.x != rank)
      send_bytes(of_tile(p + rank * P_BYTES, threadIdx.x), p + rank * P_BYTES, P_BYTES, of_tile(p_full, threadIdx.x));
    // Each sum has the order of mma_exponentials: even and odd columns of a lane apart.
    const int row = threadIdx.x / 8, place = threadIdx.x % 8;
    float sum = staged[row * STAGED + place];
#pragma unroll
    for (int j = 1; j < KEYS / 8; j++) sum = __fadd_rn(sum, staged[row * STAGED + 8 * j + place]);
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 1));
    if (place % 2 == 0)
#pragma unroll
      for (int to = 0; to < TILES; to++)
        store_remote(of_tile(shared_address(&sums[row][rank][place / 2]), to), sum);
  }
  barrier_wait(v_full, 0);
  // What lies in the page after the last key may be anything; its probability is 0.
  for (int i = threadIdx.x; i < (parts * 64 - keys) * V_UNITS; i += 128) store_zeros(v + (keys + i / V_UNITS) * V_PITCH + i % V_UNITS * 16);
  if (tiles > scores) barrier_wait(p_full, 0);
  __syncthreads();
  cluster_arrive(); // sums are sent, and all that others send is here

  float o[4] = {0, 0, 0, 0}, m[2], l[2], alphas[TILES][2];
  tile_ratios(alphas, m, tops, tiles, scale);
  if (warp < V_UNITS) {
    // Of 64 keys; those of the next part are on their way while one is multiplied.
    u32 left[2][4][4], right[2][2][4];
    const auto load = [&](int part) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        ldmatrix(left[part % 2][i], unit_at<P_UNITS>(p + part / 2 * P_BYTES, lane % 16, part % 2 * 8 + 2 * i + lane / 16));
#pragma unroll
      for (int i = 0; i < 2; i++) ldmatrix_transposed(right[part % 2][i], v_unit(v, 64 * part + 32 * i + lane, warp));
    };
    load(0);
#pragma unroll
    for (int part = 0; part < CHUNK / 64; part++) {
      if (part >= parts) break;
      if (part + 1 < parts) load(part + 1);
      if (part % 2 == 0)
#pragma unroll
        for (int i = 0; i < 4; i++) o[i] = __fmul_rn(o[i], alphas[part / 2][i / 2]);
#pragma unroll
      for (int i = 0; i < 4; i++) mma(o, left[part % 2][i], right[part % 2][i / 2][i % 2 * 2], right[part % 2][i / 2][i % 2 * 2 + 1]);
    }
  }
  cluster_wait(); // all sums are here, and nobody reads from this block any more
  tile_totals(l, alphas, sums, tiles);
#if CHUNKS == 2
  if (work.item.slot >= 0) {
    // The second chunk's result goes to the block that has the same dimensions of the first.
    __shared__ float later[FEW][OWN], statistics[FEW][2];
    if (chunk == 1 && warp < V_UNITS)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = g + 8 * half;
#pragma unroll
        for (int e = 0; e < 2; e++) store_remote(of_block(shared_address(&later[row][warp * 8 + 2 * t + e]), rank), o[2 * half + e]);
        if (warp == 0 && t == 0) {
          store_remote(of_block(shared_address(&statistics[row][0]), rank), m[half]);
          store_remote(of_block(shared_address(&statistics[row][1]), rank), l[half]);
        }
      }
    __syncwarp();
    cluster_arrive();
    if (chunk == 1) return;
    cluster_wait();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = g + 8 * half;
      float a, b;
      mma_merge(m[half], l[half], statistics[row][0], statistics[row][1], a, b, scale);
#pragma unroll
      for (int e = 0; e < 2; e++) o[2 * half + e] = __fmaf_rn(o[2 * half + e], a, __fmul_rn(later[row][warp % V_UNITS * 8 + 2 * t + e], b));
    }
  }
#endif
  if (warp < V_UNITS) work.write<8>(o, m, l, rank * OWN + warp * 8, CHUNKS == 1 && work.item.slot >= 0, heads, kvHeads, y, partial);
#endif
}

// --------------------------------------------------------------------------------------------------------------- a block a chunk

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
