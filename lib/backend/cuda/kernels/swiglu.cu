// silu(gate)·up of fused rows [gate | up], and its gradient.
#include "common.cuh"
#include "formulas.cuh"
#include "overlap.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define VEC 8
#define INDEX u32
#endif

typedef DTYPE T;
typedef INDEX Index;

typedef Pack<T, VEC> Packed;

// x [rows, 2·width] → y [rows, width]
extern "C" __global__ void __launch_bounds__(256) swiglu(const T *x, T *y, Index packs, int width) {
  wait_for_kernel_before();
  const Index per_row = width / VEC;
  for (Index i = (Index)blockIdx.x * 256 + threadIdx.x; i < packs; i += (Index)gridDim.x * 256) {
    const Index row = i / per_row;
    const T *gate = x + (i64)row * 2 * width + (i - row * per_row) * VEC;
    Packed g = *(const Packed *)gate, up = *(const Packed *)(gate + width), out;
#pragma unroll
    for (int j = 0; j < VEC; j++) out.at[j] = from_float<T>(gated(to_float(g.at[j]), to_float(up.at[j])));
    *(Packed *)(y + (i64)i * VEC) = out;
  }
}

extern "C" __global__ void __launch_bounds__(256) swiglu_backward(const T *dy, const T *x, T *dx, Index packs, int width) {
  const Index per_row = width / VEC;
  for (Index i = (Index)blockIdx.x * 256 + threadIdx.x; i < packs; i += (Index)gridDim.x * 256) {
    const Index row = i / per_row;
    const i64 at = (i64)row * 2 * width + (i - row * per_row) * VEC;
    Packed d = *(const Packed *)(dy + (i64)i * VEC), g = *(const Packed *)(x + at), up = *(const Packed *)(x + at + width);
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
