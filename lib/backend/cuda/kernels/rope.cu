// Rotary position embedding of the query and key heads in fused projection rows; values pass unchanged.
#include "common.cuh"
#include "formulas.cuh"
#include "overlap.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define VEC 8
#define HEADS 4
#define INDEX u32
#endif

typedef DTYPE T;
typedef INDEX Index;

// cos and sin [positions, half] of position·frequency[j], computed in f64: in f32 the product alone is 2e-4 off at 4,096.
extern "C" __global__ void rope_table(const double *frequency, float *cos_out, float *sin_out, int positions, int half) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (i64)positions * half) return;
  double s, c;
  sincos((double)(i / half) * frequency[i % half], &s, &c);
  cos_out[i] = (float)c;
  sin_out[i] = (float)s;
}

// The projection rows x of tokens with heads of 2 * half elements, and the tables of `known` rows by which the first `turned` of
// the heads turn. A position outside the tables gives NaN.
struct Rows {
  const T *x;
  int heads, turned, half;
  const int *positions;
  const float *cosines, *sines;
  int known;
  const int *at; // [tokens], or null
};

// A thread turns the pairs j to j + VEC (element of a head's first half with that of its second) of HEADS heads of a token that follow
// each other, or copies them. direction −1 turns back. to(token, its `at`, head) is where a head goes, null for nowhere.
template <typename To> __device__ __forceinline__ void turn(const Rows &rows, Index items, float direction, To to) {
  typedef Pack<T, VEC> Packed;
  typedef Pack<float, VEC> Angles;
  const int half = rows.half;
  const Index per_head = half / VEC, groups = (rows.heads + HEADS - 1) / HEADS;
  for (Index i = (Index)blockIdx.x * 256 + threadIdx.x; i < items; i += (Index)gridDim.x * 256) {
    const Index rest = i / per_head, token = rest / groups;
    const int j = (i - rest * per_head) * VEC, first = (rest - token * groups) * HEADS;
    const i64 start = (i64)token * rows.heads * 2 * half + j;
    Packed a[HEADS], b[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (first + h >= rows.heads) continue;
      const T *head = rows.x + start + (i64)(first + h) * 2 * half;
      a[h] = *(const Packed *)head;
      b[h] = *(const Packed *)(head + half);
    }
    const int position = rows.positions[token], place = rows.at ? rows.at[token] : 0;
    const bool known = position >= 0 && position < rows.known;
    const i64 angle = (i64)(known ? position : 0) * half + j;
    const Angles c = *(const Angles *)(rows.cosines + angle), s = *(const Angles *)(rows.sines + angle);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (first + h >= rows.heads) continue;
      if (first + h < rows.turned) {
#pragma unroll
        for (int v = 0; v < VEC; v++) {
          const float cosine = known ? c.at[v] : __int_as_float(0x7fffffff), sine = direction * s.at[v];
          float p = to_float(a[h].at[v]), q = to_float(b[h].at[v]);
          rotate(p, q, cosine, sine);
          a[h].at[v] = from_float<T>(p);
          b[h].at[v] = from_float<T>(q);
        }
      }
      T *head = to(token, place, first + h);
      if (!head) continue;
      *(Packed *)(head + j) = a[h];
      *(Packed *)(head + half + j) = b[h];
    }
  }
}

extern "C" __global__ void __launch_bounds__(256)
rope(const T *x, int heads, int turned, int half, const int *positions, const float *cosines, const float *sines, int known, T *y,
     Index items, float direction) {
  wait_for_kernel_before();
  turn({x, heads, turned, half, positions, cosines, sines, known, nullptr}, items, direction,
       [&](Index token, int, int head) { return y + ((i64)token * heads + head) * 2 * half; });
}

// The first `queries` heads go into y, which has the shape of x; the others into rows `at` of the cache [cacheRows, (heads - queries)
// 2 half], nowhere for −1. What attention reads ahead of a cache is older.
extern "C" __global__ void __launch_bounds__(256)
rope_to_cache(const T *x, int heads, int turned, int half, const int *positions, const float *cosines, const float *sines, int known, T *y,
              Index items, const int *at, T *cache, int cacheRows, int queries) {
  wait_for_kernel_before();
  let_kernel_after_begin();
  turn({x, heads, turned, half, positions, cosines, sines, known, at}, items, 1, [&](Index token, int row, int head) -> T * {
    check_index(row, -1, cacheRows);
    if (head < queries) return y + ((i64)token * heads + head) * 2 * half;
    return row < 0 ? nullptr : cache + ((i64)row * (heads - queries) + head - queries) * 2 * half;
  });
}
