// Causal attention of new tokens to all that their sequences have in a paged cache [rows, 2 kvHeads HEAD_DIM] = [k | v]. A row gets
// the same bits as from attentionPlain.cu or, with MMA = 1, attentionMma.cu. Sequences with few new tokens spread their chunks over
// blocks, which leave partial results [slot][kvHeads][rows][HEAD_DIM + 2] = o, m, l; a second kernel merges them in order.
// attentionTile.cuh has the arithmetic and the meaning of an item; one with query -1 is none. Grid (items, kvHeads).
#include "attentionTile.cuh"

__device__ __forceinline__ PagedKeys paged_keys(const T *cache, const int *pages, int pageSize, const Item &item, int kvHeads) {
  const T *k = cache + (i64)blockIdx.y * HEAD_DIM;
  return PagedKeys{k, k + (i64)kvHeads * HEAD_DIM, (i64)2 * kvHeads * HEAD_DIM, pages + item.keys, pageSize};
}

#if !MMA
// 256 threads; shared memory as attention_plain.
extern "C" __global__ void __launch_bounds__(256)
    paged_plain(const T *x, const T *cache, const int *pages, int pageSize, const Item *items, int heads, int kvHeads, float scale, T *y,
                float *partial) {
  const Item item = items[blockIdx.x];
  if (item.query < 0) return;
  plain_forward(x, paged_keys(cache, pages, pageSize, item, kvHeads), item, heads, kvHeads, scale, y, nullptr, partial);
}

extern "C" __global__ void __launch_bounds__(256)
    paged_plain_merge(const float *partial, const Item *items, int heads, int kvHeads, T *y) {
  const Item item = items[blockIdx.x];
  if (item.query < 0) return;
  const int group = heads / kvHeads, lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int row = plain_row(r), flat = item.flat + row;
    if (flat >= item.flats) continue;
    const int position = item.first + flat / group;
    PlainState running, next;
    for (int chunk = 0; chunk < item.chunk && chunk * CHUNK <= position; chunk++) {
      const float *from = partial + (((i64)(item.slot + chunk) * kvHeads + blockIdx.y) * ROWS + row) * (HEAD_DIM + 2);
#pragma unroll
      for (int i = 0; i < DIMS; i++) next.o[i] = HEAD_DIM % 32 == 0 || lane + 32 * i < HEAD_DIM ? from[lane + 32 * i] : 0.f;
      next.m = from[HEAD_DIM];
      next.l = from[HEAD_DIM + 1];
      if (chunk == 0) running = next;
      else running.merge(next);
    }
    running.write(y, nullptr, (i64)(item.query + flat / group) * heads + blockIdx.y * group + flat % group);
  }
}

#else
#ifndef STAGES // pieces that are on their way: 2, or 4 for few blocks on a device with 160 KiB of shared memory a block
#define STAGES 2
#endif

#if STAGES == 2
// Many new tokens: 128 threads; shared memory as attention_mma.
extern "C" __global__ void __launch_bounds__(128)
    paged_mma(const bf16 *x, const bf16 *cache, const int *pages, int pageSize, const Item *items, int heads, int kvHeads, float plain,
              float log2e, bf16 *y) {
  const Item item = items[blockIdx.x];
  mma_forward(x, paged_keys(cache, pages, pageSize, item, kvHeads), item, heads, kvHeads, Scale{plain, log2e}, y, nullptr);
}
#endif

constexpr int FEW = 16; // rows of a block
constexpr int PIECE = 16, K_BYTES = PIECE * HEAD_DIM * 2, V_BYTES = 64 * HEAD_DIM * 2, P_UNITS = CHUNK / 8;
// Shared memory: q [16], per warp k [STAGES][16], v [STAGES][64] rows, p [16, 512] bf16, statistics 16 * (4 + 4 + 16) floats, cache
// rows [512] i32.
constexpr int K_AT = FEW * HEAD_DIM * 2, V_AT = K_AT + 4 * STAGES * K_BYTES, P_AT = V_AT + STAGES * V_BYTES;
constexpr int S_AT = P_AT + FEW * CHUNK * 2, ROWS_AT = S_AT + FEW * 24 * 4;

// Few new tokens: one chunk of up to 16 flat rows by 128 threads. Each warp makes the probabilities of one of the chunk's four tiles
// of keys, then each makes a quarter of the output's dimensions over all tiles; every element's order of operations is that of
// mma_forward.
extern "C" __global__ void __launch_bounds__(128)
    paged_mma_chunk(const bf16 *x, const bf16 *cache, const int *pages, int pageSize, const Item *items, int heads, int kvHeads,
                    float plain, float log2e, bf16 *y, float *partial) {
  const u32 q = shared_address(dynamic_shared), v = q + V_AT, p = q + P_AT;
  float(*tops)[4] = (float(*)[4])((char *)dynamic_shared + S_AT); // [row][tile]
  float(*alphas)[4] = tops + FEW;                                // [row][tile]
  float(*sums)[4][4] = (float(*)[4][4])(alphas + FEW);           // [row][tile][lane % 4]
  const Item item = items[blockIdx.x];
  let_kernel_after_begin();
  if (item.query < 0) {
    wait_for_kernel_before();
    return;
  }
  const Scale scale{plain, log2e};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int group = heads / kvHeads, head = blockIdx.y * group;
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const PagedKeys keys = paged_keys(cache, pages, pageSize, item, kvHeads);
  int *rows = (int *)((char *)dynamic_shared + ROWS_AT); // of the chunk's keys in the cache, -1 for none
  const int begin = item.chunk * CHUNK, end = last_position(item, FEW, group) + 1; // of all keys
  const int tiles = (min(end - begin, CHUNK) + KEYS - 1) / KEYS, parts = (min(end - begin, CHUNK) + 63) / 64;
  const int start = begin + warp * KEYS; // of this warp's tile
  const u32 k = q + K_AT + warp * STAGES * K_BYTES;

  // Where a key of the chunk lies, if it is in the cache for long (old) or has just come there (new); the others are left for the
  // other time. Keys that there are not count as old.
  const auto all = [&](int key) -> i64 { return rows[key] < 0 ? NOWHERE : rows[key] * keys.pitch; };
  const auto old = [&](int key) -> i64 { return rows[key] >= 0 && begin + key >= item.first ? LATER : all(key); };
  const auto young = [&](int key) -> i64 { return rows[key] >= 0 && begin + key >= item.first ? all(key) : LATER; };
  const auto copy_k = [&](int piece, auto at) {
    const int from = warp * KEYS + piece * PIECE;
    if (piece < KEYS / PIECE && begin + from < end)
      copy_rows<PIECE, 32>(k + piece % STAGES * K_BYTES, keys.k, lane, [&](int key) { return at(from + key); });
  };
  const auto copy_v = [&](int part, auto at) {
    if (part < parts) copy_rows<64, 128>(v + part % STAGES * V_BYTES, keys.v, threadIdx.x, [&](int key) { return at(part * 64 + key); });
  };
  for (int i = threadIdx.x; i < CHUNK; i += 128) rows[i] = begin + i < end ? keys.row_at(begin + i) : -1;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < STAGES; i++) copy_k(i, old), copy_v(i, old);
  // The others come at least as far as the second-level cache.
  for (int key = threadIdx.x; key < CHUNK && rows[key] >= 0; key += 128) {
    const i64 from = rows[key] * keys.pitch;
#pragma unroll
    for (int byte = 0; byte < HEAD_DIM * 2; byte += 128) {
      if (key % KEYS >= STAGES * PIECE) prefetch_second_level((const char *)(keys.k + from) + byte);
      if (key >= STAGES * 64) prefetch_second_level((const char *)(keys.v + from) + byte);
    }
  }
  wait_for_kernel_before();
  copy_rows<FEW, 128>(q, x, threadIdx.x, [&](int row) -> i64 {
    const int flat = item.flat + row;
    return flat < item.flats ? (item.query + flat / group) * width + (head + flat % group) * HEAD_DIM : NOWHERE;
  });
  if (begin + STAGES * 64 > item.first || begin + 4 * KEYS > item.first)
#pragma unroll
    for (int i = 0; i < STAGES; i++) copy_k(i, young), copy_v(i, young);
  copy_commit();

  int flat[2], visible[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    flat[half] = item.flat + g + 8 * half;
    visible[half] = flat[half] < item.flats ? item.first + flat[half] / group - start : -1;
  }
  float s[KEYS / 2], top[2];
#pragma unroll
  for (int i = 0; i < KEYS / 2; i++) s[i] = 0;
#pragma unroll
  for (int piece = 0; piece < KEYS / PIECE; piece++) {
    if (piece == 0) {
      copy_wait<0>();
      __syncthreads(); // q is everybody's
    } else if (piece >= STAGES) {
      copy_wait<STAGES - 1>();
      __syncwarp();
    }
    if (start + piece * PIECE < end) mma_dots<PIECE>(s + 8 * piece, q, 0, k + piece % STAGES * K_BYTES, 0);
    __syncwarp();
    copy_k(piece + STAGES, all);
    copy_commit();
  }
  mma_mask<KEYS>(s, visible);
  mma_top(s, top);
  if (t == 0) tops[g][warp] = top[0], tops[g + 8][warp] = top[1];
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = g + 8 * half;
    float before = NOTHING;
    for (int tile = 0; tile < warp; tile++) before = fmaxf(before, tops[row][tile]);
    const float now = fmaxf(before, top[half]);
    if (t == 0) alphas[row][warp] = mma_ratio(before, now, scale);
    sums[row][warp][t] = mma_exponentials(s, half, now, scale);
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
      const u32 at = unit_at<P_UNITS>(p, row, warp * (KEYS / 8) + j) + t * 4, pair = pack_bf16(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]);
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pair) : "memory");
    }
  }
  copy_wait<0>();
  __syncthreads();

  constexpr int OWN = HEAD_DIM / 4; // dimensions of a warp
  float o[OWN / 2], m[2] = {NOTHING, NOTHING}, l[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < OWN / 2; i++) o[i] = 0;
  for (int part = 0; part < parts; part++) {
    if (part >= STAGES) {
      copy_wait<STAGES - 1>();
      __syncthreads();
    }
    if (part % 2 == 0) {
      float alpha[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        alpha[half] = alphas[g + 8 * half][part / 2];
        l[half] = __fmaf_rn(l[half], alpha[half], sums[g + 8 * half][part / 2][t]);
      }
#pragma unroll
      for (int i = 0; i < OWN / 2; i++) o[i] = __fmul_rn(o[i], alpha[i / 2 % 2]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 left[4], right[4];
      ldmatrix(left, unit_at<P_UNITS>(p, lane % 16, part * 8 + 2 * i + lane / 16));
#pragma unroll
      for (int n = 0; n < OWN / 16; n++) {
        ldmatrix_transposed(right, unit_at(v + part % STAGES * V_BYTES, 16 * i + lane % 16, warp * (OWN / 8) + 2 * n + lane / 16));
        mma(o + 8 * n, left, right[0], right[1]);
        mma(o + 8 * n + 4, left, right[2], right[3]);
      }
    }
    __syncthreads();
    copy_v(part + STAGES, all);
    copy_commit();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = g + 8 * half;
    for (int tile = 0; tile < tiles; tile++) m[half] = fmaxf(m[half], tops[row][tile]);
    l[half] = quad_total(l[half]);
    if (flat[half] >= item.flats) continue;
    const int column = warp * OWN + 2 * t;
    if (item.slot < 0) {
      bf16 *to = y + ((i64)(item.query + flat[half] / group) * heads + head + flat[half] % group) * HEAD_DIM + column;
      const float inverse = __frcp_rn(l[half]);
#pragma unroll
      for (int j = 0; j < OWN / 8; j++)
        *(u32 *)(to + 8 * j) = pack_bf16(__fmul_rn(o[4 * j + 2 * half], inverse), __fmul_rn(o[4 * j + 2 * half + 1], inverse));
    } else {
      float *to = partial + (((i64)item.slot * kvHeads + blockIdx.y) * FEW + row) * (HEAD_DIM + 2);
#pragma unroll
      for (int j = 0; j < OWN / 8; j++) *(float2 *)(to + column + 8 * j) = make_float2(o[4 * j + 2 * half], o[4 * j + 2 * half + 1]);
      if (warp == 0 && t == 0) *(float2 *)(to + HEAD_DIM) = make_float2(m[half], l[half]);
    }
  }
}

#if STAGES == 2
// A warp has a row, a lane HEAD_DIM / 32 neighbouring dimensions; what AHEAD chunks left is read at once. 128 threads, grid
// (items, kvHeads, FEW / 4).
extern "C" __global__ void __launch_bounds__(128)
    paged_mma_merge(const float *partial, const Item *items, int heads, int kvHeads, float plain, float log2e, bf16 *y) {
  constexpr int PAIRS = HEAD_DIM / 64, AHEAD = 8;
  typedef Pack<float, 2> Pair;
  const Item item = items[blockIdx.x];
  let_kernel_after_begin();
  wait_for_kernel_before();
  const int row = blockIdx.z * 4 + threadIdx.x / 32, flat = item.flat + row, lane = threadIdx.x % 32;
  if (item.query < 0 || flat >= item.flats) return;
  const int group = heads / kvHeads, chunks = min(item.chunk, (item.first + flat / group) / CHUNK + 1);
  const i64 pitch = (i64)kvHeads * FEW * (HEAD_DIM + 2);
  const float *from = partial + (((i64)item.slot * kvHeads + blockIdx.y) * FEW + row) * (HEAD_DIM + 2);
  float o[2 * PAIRS], m = 0, l = 1;
#pragma unroll
  for (int i = 0; i < 2 * PAIRS; i++) o[i] = 0;
  for (int first = 0; first < chunks; first += AHEAD, from += AHEAD * pitch) {
    Pair next[AHEAD][PAIRS], state[AHEAD];
#pragma unroll
    for (int c = 0; c < AHEAD; c++) {
      if (first + c >= chunks) continue;
      state[c] = *(const Pair *)(from + c * pitch + HEAD_DIM);
#pragma unroll
      for (int i = 0; i < PAIRS; i++) next[c][i] = *(const Pair *)(from + c * pitch + 2 * (lane * PAIRS + i));
    }
#pragma unroll
    for (int c = 0; c < AHEAD; c++) {
      if (first + c >= chunks) continue;
      const bool begins = first + c == 0;
      float a, b;
      if (begins) m = state[c].at[0], l = state[c].at[1];
      else mma_merge(m, l, state[c].at[0], state[c].at[1], a, b, Scale{plain, log2e});
#pragma unroll
      for (int i = 0; i < 2 * PAIRS; i++) {
        const float value = next[c][i / 2].at[i % 2];
        o[i] = begins ? value : __fmaf_rn(o[i], a, __fmul_rn(value, b));
      }
    }
  }
  const float inverse = __frcp_rn(l);
  bf16 *to = y + ((i64)(item.query + flat / group) * heads + blockIdx.y * group + flat % group) * HEAD_DIM + lane * 2 * PAIRS;
#pragma unroll
  for (int i = 0; i < PAIRS; i++) *(u32 *)(to + 2 * i) = pack_bf16(__fmul_rn(o[2 * i], inverse), __fmul_rn(o[2 * i + 1], inverse));
}
#endif
#endif
