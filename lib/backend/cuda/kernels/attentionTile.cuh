// What attention and paged attention have in common, so that a row gets the same bits from both: the arithmetic of a tile of
// keys, of a chunk of 512 keys, and of merging chunks; once on CUDA cores, for all head dimensions and element types ("plain"),
// and once on tensor cores (MMA, bf16 with 64 or 128 dimensions).
//
// Rows. The queries of one sequence that read one key head are numbered position by position: flat row f is query f / group of the
// head kvHead * group + f % group, group = heads / kvHeads. A block takes some consecutive flat rows.
// Keys. Chunk c is the absolute positions [512 c, 512 (c + 1)). A chunk's (m, l, o) starts from nothing; chunks are merged in order.
#pragma once
#include "common.cuh"
#include "mma.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef DTYPE
#define DTYPE bf16
#endif
#ifndef MMA
#define MMA 0
#endif

typedef DTYPE T;
extern __shared__ uint4 dynamic_shared[];

constexpr int CHUNK = 512;
constexpr float LN2 = 0.6931471805599453f, LOG2E = 1.4426950408889634f;
#define NOTHING __int_as_float(0xff800000) // -inf

// What a block does.
struct alignas(16) Item {
  int query;    // row in x of the sequence's first query
  int first;    // position of that query in its sequence
  int flat;     // the first flat row
  int flats;    // flat rows of the sequence
  int keys;     // row in x of the sequence's position 0; paged: index of its first page in the list of pages
  int chunk;    // the one chunk to do, else -1; in the kernel that merges the number of chunks
  int slot;     // where the partial result of this item goes, else -1; the chunks of a tile follow each other
  int reserved;
};

__device__ __forceinline__ int last_position(const Item &item, int rows, int group) {
  const int end = item.flat + rows < item.flats ? item.flat + rows : item.flats;
  return item.first + (end - 1) / group;
}

// Where keys and values lie; both work on the element of dimension 0 of one head.
struct PackedKeys {
  const T *k, *v;
  i64 pitch;
  int row;
  __device__ __forceinline__ i64 at(int position) const { return (row + position) * pitch; }
};
struct PagedKeys {
  const T *k, *v;
  i64 pitch;
  const int *pages;
  int pageSize;
  __device__ __forceinline__ int row_at(int position) const { return pages[position / pageSize] * pageSize + position % pageSize; }
  __device__ __forceinline__ i64 at(int position) const { return row_at(position) * pitch; }
};

// ---------------------------------------------------------------------------------------------------------------- plain
// A warp has R rows; the lanes are the 32 keys of a tile when scores are made, and dimensions d = lane + 32 i of the output.

#if !MMA
constexpr int WARPS = 8, R = HEAD_DIM <= 128 ? 4 : 2, ROWS = WARPS * R, KEYS = 32;
constexpr int VEC = HEAD_DIM % 4 == 0 ? 4 : 1, PITCH = HEAD_DIM + VEC, DIMS = (HEAD_DIM + 31) / 32;
// Shared memory in floats: of a block's rows, and of a tile; a lane past the last dimension reads up to 31 floats too far.
constexpr int ROW_FLOATS = (ROWS * HEAD_DIM + 3) / 4 * 4, TILE_FLOATS = KEYS * PITCH;

// Scores are in the unit of this exponential: natural in f32, binary in 16 bits (log2 e is folded into the scale).
template <typename U> struct Exponential {
  static __device__ __forceinline__ float of(float x) { return exp2f(x); }
  static __device__ __forceinline__ float natural(float m, float l) { return __fmul_rn(__fadd_rn(m, log2f(l)), LN2); }
  static __device__ __forceinline__ float unit(float lse) { return __fmul_rn(lse, LOG2E); }
};
template <> struct Exponential<float> {
  static __device__ __forceinline__ float of(float x) { return expf(x); }
  static __device__ __forceinline__ float natural(float m, float l) { return __fadd_rn(m, logf(l)); }
  static __device__ __forceinline__ float unit(float lse) { return lse; }
};
typedef Exponential<T> Exp;

struct PlainState {
  float m, l, o[DIMS];
  __device__ __forceinline__ void clear() {
    m = NOTHING;
    l = 0;
#pragma unroll
    for (int i = 0; i < DIMS; i++) o[i] = 0;
  }
  // (M, L, O) with the next chunk's.
  __device__ __forceinline__ void merge(const PlainState &next) {
    const float top = fmaxf(m, next.m);
    const float a = Exp::of(__fsub_rn(m, top)), b = Exp::of(__fsub_rn(next.m, top));
    m = top;
    l = __fmaf_rn(l, a, __fmul_rn(next.l, b));
#pragma unroll
    for (int i = 0; i < DIMS; i++) o[i] = __fmaf_rn(o[i], a, __fmul_rn(next.o[i], b));
  }
  __device__ __forceinline__ void write(T *y, float *lse, i64 row) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < DIMS; i++)
      if (HEAD_DIM % 32 == 0 || lane + 32 * i < HEAD_DIM) y[row * HEAD_DIM + lane + 32 * i] = from_float<T>(__fdiv_rn(o[i], l));
    if (lse && lane == 0) lse[row] = Exp::natural(m, l);
  }
};

// Row r of a warp is row r * WARPS + warp of the block.
__device__ __forceinline__ int plain_row(int r) { return r * WARPS + threadIdx.x / 32; }

// s[r] = a of row r · b of key `lane`, dimensions in order. The block's rows lie in `a`, the tile in `b`.
__device__ __forceinline__ void plain_dots(float (&s)[R], const float *a, const float *b) {
  const float *key = b + threadIdx.x % 32 * PITCH;
#pragma unroll
  for (int r = 0; r < R; r++) s[r] = 0;
#pragma unroll 4
  for (int d = 0; d < HEAD_DIM; d += VEC) {
    const Pack<float, VEC> y = *(const Pack<float, VEC> *)(key + d);
#pragma unroll
    for (int r = 0; r < R; r++) {
      const Pack<float, VEC> x = *(const Pack<float, VEC> *)(a + plain_row(r) * HEAD_DIM + d);
#pragma unroll
      for (int e = 0; e < VEC; e++) s[r] = __fmaf_rn(x.at[e], y.at[e], s[r]);
    }
  }
}

// o[r] += sum over the tile's keys j in order of p[r] of lane j · b of key j.
__device__ __forceinline__ void plain_weigh(float (&o)[R][DIMS], const float (&p)[R], const float *b) {
  const int lane = threadIdx.x % 32;
#pragma unroll 4
  for (int j = 0; j < KEYS; j++) {
    float y[DIMS];
#pragma unroll
    for (int i = 0; i < DIMS; i++) y[i] = b[j * PITCH + lane + 32 * i];
#pragma unroll
    for (int r = 0; r < R; r++) {
      const float x = __shfl_sync(0xffffffffu, p[r], j);
#pragma unroll
      for (int i = 0; i < DIMS; i++) o[r][i] = __fmaf_rn(x, y[i], o[r][i]);
    }
  }
}

// One tile of keys; row r sees the first visible[r] of them.
__device__ __forceinline__ void plain_tile(PlainState (&state)[R], const float *q, const float *k, const float *v, const int (&visible)[R],
                                           float scale) {
  const int lane = threadIdx.x % 32;
  float p[R], o[R][DIMS];
  plain_dots(p, q, k);
#pragma unroll
  for (int r = 0; r < R; r++) {
    float alpha = 1;
    if (visible[r] > 0) {
      const float z = lane < visible[r] ? __fmul_rn(p[r], scale) : NOTHING;
      const float top = fmaxf(state[r].m, warp_max(z));
      alpha = Exp::of(__fsub_rn(state[r].m, top));
      p[r] = Exp::of(__fsub_rn(z, top));
      state[r].m = top;
      state[r].l = __fmaf_rn(state[r].l, alpha, warp_sum(p[r]));
    } else {
      p[r] = 0;
    }
#pragma unroll
    for (int i = 0; i < DIMS; i++) o[r][i] = __fmul_rn(state[r].o[i], alpha);
  }
  plain_weigh(o, p, v);
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int i = 0; i < DIMS; i++) state[r].o[i] = o[r][i];
}

// Copies `count` vectors into shared memory as f32, zeros where at(row) is negative.
template <int count, int pitch, typename At> __device__ __forceinline__ void plain_load(float *shared, const T *x, At at) {
  for (int row = threadIdx.x / 32; row < count; row += WARPS) {
    const i64 from = at(row);
    for (int d = threadIdx.x % 32; d < HEAD_DIM; d += 32) shared[row * pitch + d] = from < 0 ? 0.f : to_float(x[from + d]);
  }
}

// Forward for one item and key head: y and lse, or the partial result [ROWS][HEAD_DIM + 2] = o, m, l of one chunk.
template <typename Keys>
__device__ __forceinline__ void plain_forward(const T *x, const Keys &keys, const Item &item, int heads, int kvHeads, float scale, T *y,
                                              float *lse, float *partial) {
  float *q = (float *)dynamic_shared, *k = q + ROW_FLOATS, *v = k + TILE_FLOATS;
  const int group = heads / kvHeads, head = blockIdx.y * group, last = last_position(item, ROWS, group);
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  plain_load<ROWS, HEAD_DIM>(q, x, [&](int row) -> i64 {
    const int flat = item.flat + row;
    return flat < item.flats ? (item.query + flat / group) * width + (head + flat % group) * HEAD_DIM : -1;
  });
  int position[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int flat = item.flat + plain_row(r);
    position[r] = flat < item.flats ? item.first + flat / group : -1;
  }
  PlainState state[R], running[R];
  const int from = item.chunk < 0 ? 0 : item.chunk, until = item.chunk < 0 ? last / CHUNK : item.chunk;
  for (int chunk = from; chunk <= until; chunk++) {
#pragma unroll
    for (int r = 0; r < R; r++) state[r].clear();
    for (int start = chunk * CHUNK; start < (chunk + 1) * CHUNK && start <= last; start += KEYS) {
      __syncthreads();
      const auto at = [&](int key) { return start + key <= last ? keys.at(start + key) : -1; };
      plain_load<KEYS, PITCH>(k, keys.k, at);
      plain_load<KEYS, PITCH>(v, keys.v, at);
      __syncthreads();
      int visible[R];
      bool any = false;
#pragma unroll
      for (int r = 0; r < R; r++) {
        visible[r] = position[r] - start + 1;
        any |= visible[r] > 0;
      }
      if (any) plain_tile(state, q, k, v, visible, scale);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
      if (chunk == from) running[r] = state[r];
      else if (position[r] >= chunk * CHUNK) running[r].merge(state[r]);
    }
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int flat = item.flat + plain_row(r);
    if (flat >= item.flats) continue;
    if (item.slot < 0) {
      running[r].write(y, lse, (i64)(item.query + flat / group) * heads + head + flat % group);
    } else {
      float *to = partial + (((i64)item.slot * kvHeads + blockIdx.y) * ROWS + plain_row(r)) * (HEAD_DIM + 2);
#pragma unroll
      for (int i = 0; i < DIMS; i++)
        if (HEAD_DIM % 32 == 0 || lane + 32 * i < HEAD_DIM) to[lane + 32 * i] = running[r].o[i];
      if (lane == 0) {
        to[HEAD_DIM] = running[r].m;
        to[HEAD_DIM + 1] = running[r].l;
      }
    }
  }
}

#else
// ------------------------------------------------------------------------------------------------------------------ mma
// The arithmetic, and so the bits, of attentionHopper.cu; its header says what is done in which order. Matrices lie in shared memory
// [rows, HEAD_DIM] in units of 16 bytes, unit u of a row at u ^ row % 8.
//
// Fragments of mma.m16n8k16 with g = lane / 4 and t = lane % 4: accumulator d[i] is row g + 8 (i / 2), column 2 t + i % 2.

constexpr int KEYS = 128, UNITS = HEAD_DIM / 8;

struct Scale {
  float plain, log2e; // HEAD_DIM^-0.5, and that times log2 e
};

__device__ __forceinline__ u32 unit_at(u32 shared, int row, int unit) { return unit_at<UNITS>(shared, row, unit); }

constexpr i64 NOWHERE = -1, LATER = -2;
// Copies `rows` vectors, zeros where at(row) is NOWHERE and nothing where it is LATER, by `threads` threads of which this is number
// `thread`.
template <int rows, int threads, typename At>
__device__ __forceinline__ void copy_rows(u32 shared, const bf16 *x, int thread, At at) {
#pragma unroll
  for (int i = 0; i < rows * UNITS / threads; i++) {
    const int n = i * threads + thread, row = n / UNITS, unit = n % UNITS;
    const i64 from = at(row);
    if (from != LATER) copy_async(unit_at(shared, row, unit), x + (from < 0 ? 0 : from + unit * 8), from >= 0);
  }
}

// d [16, columns] += a [16, HEAD_DIM] · b [columns, HEAD_DIM] transposed; rows a0 and b0 on.
template <int columns> __device__ __forceinline__ void mma_dots(float *d, u32 a, int a0, u32 b, int b0) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; k++) {
    u32 left[4];
    ldmatrix(left, unit_at(a, a0 + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int n = 0; n < columns / 16; n++) {
      u32 right[4];
      ldmatrix(right, unit_at(b, b0 + 16 * n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      mma(d + 8 * n, left, right[0], right[1]);
      mma(d + 8 * n + 4, left, right[2], right[3]);
    }
  }
}

// o [16, HEAD_DIM] += p [16, 16] · v [16, HEAD_DIM], rows v0 on of v; p are two neighbouring accumulators' eight values.
__device__ __forceinline__ void mma_weigh(float (&o)[HEAD_DIM / 2], const float *p, u32 v, int v0) {
  const int lane = threadIdx.x % 32;
  const u32 left[4] = {pack_bf16(p[0], p[1]), pack_bf16(p[2], p[3]), pack_bf16(p[4], p[5]), pack_bf16(p[6], p[7])};
#pragma unroll
  for (int n = 0; n < HEAD_DIM / 16; n++) {
    u32 right[4];
    ldmatrix_transposed(right, unit_at(v, v0 + lane % 16, 2 * n + lane / 16));
    mma(o + 8 * n, left, right[0], right[1]);
    mma(o + 8 * n + 4, left, right[2], right[3]);
  }
}

// Sets scores of columns after `visible` [2] (of this lane's two rows) to nothing.
template <int columns> __device__ __forceinline__ void mma_mask(float *s, const int (&visible)[2]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < columns / 2; i++)
    if (i / 4 * 8 + 2 * t + i % 2 > visible[i / 2 % 2]) s[i] = NOTHING;
}

// The greatest score of each of the lane's two rows in this tile.
__device__ __forceinline__ void mma_top(const float *s, float (&top)[2]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float most = fmaxf(s[2 * half], s[2 * half + 1]);
#pragma unroll
    for (int j = 1; j < KEYS / 8; j++) most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    top[half] = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
  }
}

// exp2((before - top) c), 1 where both are nothing.
__device__ __forceinline__ float mma_ratio(float before, float top, Scale scale) {
  return top == NOTHING ? 1.f : exp2_fast(__fmul_rn(__fsub_rn(before, top), scale.log2e));
}

// Scores of one row of the lane to probabilities relative to `top`; returns their sum over this lane's columns.
__device__ __forceinline__ float mma_exponentials(float *s, int half, float top, Scale scale) {
  const float z = top == NOTHING ? 0.f : __fmul_rn(top, scale.log2e);
  float u[2];
#pragma unroll
  for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float &p = s[4 * j + 2 * half + e];
      p = exp2_fast(__fmaf_rn(p, scale.log2e, -z));
      u[e] = j == 0 ? p : __fadd_rn(u[e], p);
    }
  return __fadd_rn(u[0], u[1]);
}

__device__ __forceinline__ float quad_total(float x) {
  x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// (M, L) with the next chunk's (m, l); O becomes fma(O, a, o * b).
__device__ __forceinline__ void mma_merge(float &M, float &L, float m, float l, float &a, float &b, Scale scale) {
  const float top = fmaxf(M, m);
  a = mma_ratio(M, top, scale);
  b = mma_ratio(m, top, scale);
  M = top;
  L = __fmaf_rn(L, a, __fmul_rn(l, b));
}
__device__ __forceinline__ float mma_lse(float M, float L, Scale scale) {
  return __fmaf_rn(log2_fast(L), LN2, __fmul_rn(M, scale.plain));
}

// Forward for one item of 64 flat rows and a key head by four warps. Shared memory: q [64], k [128], v [128] rows.
template <typename Keys>
__device__ __forceinline__ void mma_forward(const bf16 *x, const Keys &keys, const Item &item, int heads, int kvHeads, Scale scale,
                                            bf16 *y, float *lse) {
  const u32 q = shared_address(dynamic_shared), k = q + 64 * HEAD_DIM * 2, v = k + KEYS * HEAD_DIM * 2;
  const int group = heads / kvHeads, head = blockIdx.y * group, last = last_position(item, 64, group);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const auto copy_tile = [&](u32 shared, const bf16 *from, int start) {
    copy_rows<KEYS, 128>(shared, from, threadIdx.x, [&](int key) { return start + key <= last ? keys.at(start + key) : -1; });
    copy_commit();
  };
  copy_rows<64, 128>(q, x, threadIdx.x, [&](int row) -> i64 {
    const int flat = item.flat + row;
    return flat < item.flats ? (item.query + flat / group) * width + (head + flat % group) * HEAD_DIM : -1;
  });
  copy_tile(k, keys.k, 0);

  int flat[2], position[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    flat[half] = item.flat + 16 * warp + lane / 4 + 8 * half;
    position[half] = flat[half] < item.flats ? item.first + flat[half] / group : -1;
  }
  // The warp's first row sees least, its last row most.
  const int least = item.first + (item.flat + 16 * warp) / group;
  const int most = item.flat + 16 * warp < item.flats ? last_position({0, item.first, item.flat + 16 * warp, item.flats}, 16, group) : -1;
  float o[HEAD_DIM / 2], running[HEAD_DIM / 2], m[2], l[2], M[2], L[2];
#pragma unroll
  for (int half = 0; half < 2; half++) M[half] = NOTHING, L[half] = 1, m[half] = NOTHING, l[half] = 0;
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 2; i++) o[i] = running[i] = 0;

  for (int start = 0; start <= last; start += KEYS) {
    float s[KEYS / 2];
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) s[i] = 0;
    copy_tile(v, keys.v, start);
    copy_wait<1>();
    __syncthreads();
    const bool sees = start <= most;
    if (sees) mma_dots<KEYS>(s, q, 16 * warp, k, 0);
    __syncthreads();
    if (start + KEYS <= last) copy_tile(k, keys.k, start + KEYS);
    else copy_commit();
    if (sees) {
      if (start % CHUNK == 0) {
#pragma unroll
        for (int half = 0; half < 2; half++) m[half] = NOTHING, l[half] = 0;
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; i++) o[i] = 0;
      }
      if (start + KEYS - 1 > least) mma_mask<KEYS>(s, {position[0] - start, position[1] - start});
      float top[2], alpha[2];
      mma_top(s, top);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        top[half] = fmaxf(top[half], m[half]);
        alpha[half] = mma_ratio(m[half], top[half], scale);
        l[half] = __fmaf_rn(l[half], alpha[half], mma_exponentials(s, half, top[half], scale));
        m[half] = top[half];
      }
#pragma unroll
      for (int i = 0; i < HEAD_DIM / 2; i++) o[i] = __fmul_rn(o[i], alpha[i / 2 % 2]);
    }
    copy_wait<1>();
    __syncthreads();
    if (sees) {
#pragma unroll
      for (int i = 0; i < KEYS / 16; i++) mma_weigh(o, s + 8 * i, v, 16 * i);
      if ((start + KEYS) % CHUNK == 0 || start + KEYS > most) { // the chunk ends here, for this warp
        float a[2], b[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float sum = quad_total(l[half]);
          if (start < CHUNK) {
            M[half] = m[half];
            L[half] = sum;
          } else {
            mma_merge(M[half], L[half], m[half], sum, a[half], b[half], scale);
          }
        }
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; i++)
          running[i] = start < CHUNK ? o[i] : __fmaf_rn(running[i], a[i / 2 % 2], __fmul_rn(o[i], b[i / 2 % 2]));
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (position[half] < 0) continue;
    const i64 row = (i64)(item.query + flat[half] / group) * heads + head + flat[half] % group;
    const float inverse = __frcp_rn(L[half]);
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
      *(u32 *)(y + row * HEAD_DIM + 8 * j + lane % 4 * 2) =
          pack_bf16(__fmul_rn(running[4 * j + 2 * half], inverse), __fmul_rn(running[4 * j + 2 * half + 1], inverse));
    if (lse && lane % 4 == 0) lse[row] = mma_lse(M[half], L[half], scale);
  }
}
#endif
