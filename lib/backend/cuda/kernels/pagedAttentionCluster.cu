// Few chunks (pagedAttentionHopper.cuh): four blocks of a cluster share one, so that four multiprocessors fetch it. Block r makes the
// probabilities of the chunk's tile r of 128 keys, hands them to the others, and makes a quarter of the output's dimensions over all
// tiles. A cluster that has both chunks of its rows merges them itself.
#include "pagedAttentionHopper.cuh"

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

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LAUNCH_BOUNDS __cluster_dims__(TILES *CHUNKS, 1, 1) __launch_bounds__(128)
#else
#define LAUNCH_BOUNDS __launch_bounds__(128)
#endif

// Grid (4 CHUNKS sequences, kvHeads); a sequence's next chunk is `stride` items on.
extern "C" __global__ void LAUNCH_BOUNDS
paged_mma_cluster(const bf16 *x, const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map, const int *pages,
                  int pageSize, const Item *items, int stride, int heads, int kvHeads, float plain, float log2e, bf16 *y, float *partial) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ u64 barriers[4];
  __shared__ float warp_tops[FEW][4], tops[FEW][TILES], sums[FEW][TILES][4]; // the last [row][tile][lane % 4]
  const u32 k_full = shared_address(barriers), v_full = k_full + 8, tops_full = k_full + 16, p_full = k_full + 24;
  const u32 k = (shared_address(dynamic_shared) + 1023) / 1024 * 1024, v = k + V_AT, p = k + P_AT, q = k + Q_AT;
  const int rank = blockIdx.x % TILES, chunk = blockIdx.x / TILES % CHUNKS, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const Work work(items[blockIdx.x / TILES / CHUNKS + chunk * stride], heads, kvHeads, blockIdx.y);
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
  copy_wait<0>();
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
        pair.x = exp2_fast(__fmaf_rn(s[4 * j + 2 * half], scale.log2e, -z));
        pair.y = exp2_fast(__fmaf_rn(s[4 * j + 2 * half + 1], scale.log2e, -z));
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
