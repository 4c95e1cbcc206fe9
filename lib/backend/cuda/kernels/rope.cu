// Rotary position embedding of the query and key heads in fused projection rows; values pass unchanged.
#include "common.cuh"
#include "formulas.cuh"

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

// A thread turns the pairs j to j + VEC (element of a head's first half with that of its second) of HEADS heads of a token that follow
// each other, or copies them. direction −1 turns back. A position outside the table gives NaN.
extern "C" __global__ void __launch_bounds__(256)
rope(const T *x, const int *positions, const float *cos_in, const float *sin_in, T *y, Index items, int all_heads,
     int turned_heads, int half, int table, float direction) {
  typedef Pack<T, VEC> Packed;
  typedef Pack<float, VEC> Angles;
  const Index per_head = half / VEC, groups = (all_heads + HEADS - 1) / HEADS;
  for (Index i = (Index)blockIdx.x * 256 + threadIdx.x; i < items; i += (Index)gridDim.x * 256) {
    const Index rest = i / per_head, token = rest / groups;
    const int j = (i - rest * per_head) * VEC, first = (rest - token * groups) * HEADS;
    const i64 start = (i64)token * all_heads * 2 * half + j;
    Packed a[HEADS], b[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (first + h >= all_heads) continue;
      const T *head = x + start + (i64)(first + h) * 2 * half;
      a[h] = *(const Packed *)head;
      b[h] = *(const Packed *)(head + half);
    }
    const int position = positions[token];
    const bool known = position >= 0 && position < table;
    const i64 angle = (i64)(known ? position : 0) * half + j;
    const Angles c = *(const Angles *)(cos_in + angle), s = *(const Angles *)(sin_in + angle);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (first + h >= all_heads) continue;
      if (first + h < turned_heads) {
#pragma unroll
        for (int v = 0; v < VEC; v++) {
          const float cosine = known ? c.at[v] : __int_as_float(0x7fffffff), sine = direction * s.at[v];
          float p = to_float(a[h].at[v]), q = to_float(b[h].at[v]);
          rotate(p, q, cosine, sine);
          a[h].at[v] = from_float<T>(p);
          b[h].at[v] = from_float<T>(q);
        }
      }
      T *head = y + start + (i64)(first + h) * 2 * half;
      *(Packed *)head = a[h];
      *(Packed *)(head + half) = b[h];
    }
  }
}
