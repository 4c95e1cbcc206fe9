// Rotary position embedding of the query and key heads in fused projection rows; values pass unchanged.
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define VEC 8
#endif

typedef DTYPE T;

// cos and sin [positions, half] of position·frequency[j], computed in f64: in f32 the product alone is 2e-4 off at 4,096.
extern "C" __global__ void rope_table(const double *frequency, float *cos_out, float *sin_out, int positions, int half) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (i64)positions * half) return;
  double s, c;
  sincos((double)(i / half) * frequency[i % half], &s, &c);
  cos_out[i] = (float)c;
  sin_out[i] = (float)s;
}

// A thread turns VEC pairs (element j of a head's first half with element j of its second), or copies both.
// direction −1 turns back. A position outside the table gives NaN.
extern "C" __global__ void rope(const T *x, const int *positions, const float *cos_in, const float *sin_in, T *y,
                                i64 items, int all_heads, int turned_heads, int half, int table, float direction) {
  typedef Pack<T, VEC> Packed;
  const int per_head = half / VEC;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < items; i += (i64)gridDim.x * blockDim.x) {
    const int j = i % per_head * VEC;
    const i64 head = i / per_head;
    const i64 at = head * 2 * half + j;
    Packed a = *(const Packed *)(x + at), b = *(const Packed *)(x + at + half);
    if (head % all_heads < turned_heads) {
      const int position = positions[head / all_heads];
      const bool known = position >= 0 && position < table;
      const i64 angle = (i64)(known ? position : 0) * half + j;
#pragma unroll
      for (int v = 0; v < VEC; v++) {
        float c = known ? cos_in[angle + v] : __int_as_float(0x7fffffff), s = direction * sin_in[angle + v];
        float p = to_float(a.at[v]), q = to_float(b.at[v]);
        a.at[v] = from_float<T>(p * c - q * s);
        b.at[v] = from_float<T>(q * c + p * s);
      }
    }
    *(Packed *)(y + at) = a;
    *(Packed *)(y + at + half) = b;
  }
}
