// silu(gate)·up of fused rows [gate | up], and its gradient.
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define VEC 8
#endif

typedef DTYPE T;

typedef Pack<T, VEC> Packed;

// x [rows, 2·width] → y [rows, width]
extern "C" __global__ void swiglu(const T *x, T *y, i64 packs, int width) {
  const int per_row = width / VEC;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / per_row;
    const T *gate = x + row * 2 * width + (i - row * per_row) * VEC;
    Packed g = *(const Packed *)gate, up = *(const Packed *)(gate + width), out;
#pragma unroll
    for (int j = 0; j < VEC; j++) {
      float a = to_float(g.at[j]);
      out.at[j] = from_float<T>(a / (1 + expf(-a)) * to_float(up.at[j]));
    }
    *(Packed *)(y + i * VEC) = out;
  }
}

extern "C" __global__ void swiglu_backward(const T *dy, const T *x, T *dx, i64 packs, int width) {
  const int per_row = width / VEC;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / per_row;
    const i64 at = row * 2 * width + (i - row * per_row) * VEC;
    Packed d = *(const Packed *)(dy + i * VEC), g = *(const Packed *)(x + at), up = *(const Packed *)(x + at + width);
    Packed dg, dup;
#pragma unroll
    for (int j = 0; j < VEC; j++) {
      float a = to_float(g.at[j]), gradient = to_float(d.at[j]);
      float s = 1 / (1 + expf(-a));
      dg.at[j] = from_float<T>(gradient * to_float(up.at[j]) * s * (1 + a * (1 - s)));
      dup.at[j] = from_float<T>(gradient * a * s);
    }
    *(Packed *)(dx + at) = dg;
    *(Packed *)(dx + at + width) = dup;
  }
}
