// Formulas that training and decoding share: every operation is rounded as written, so that both get the same bits.
#pragma once
#include "common.cuh"

// silu(gate)·up, to 2 units in the last place. Without a division's branches, which keep a thread's many outputs from overlapping; below
// -80, where silu is less than 2e-33, it stops getting smaller.
__device__ __forceinline__ float gated(float gate, float up) {
  const float below = __fadd_rn(1.0f, expf(fminf(-gate, 80.0f)));
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(below));
  inverse = __fmaf_rn(__fmaf_rn(-below, inverse, 1.0f), inverse, inverse);
  return __fmul_rn(__fmul_rn(gate, inverse), up);
}

// The pair (p, q) turned by the angle with this cosine and sine.
__device__ __forceinline__ void rotate(float &p, float &q, float cosine, float sine) {
  const float turned = __fmaf_rn(p, cosine, -__fmul_rn(q, sine));
  q = __fmaf_rn(q, cosine, __fmul_rn(p, sine));
  p = turned;
}

// 1/sqrt(mean of squares + eps)
__device__ __forceinline__ float rms_scale(float squares, int width, float eps) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(squares, (float)width), eps)));
}

__device__ __forceinline__ float scaled(float x, float scale, float weight) { return __fmul_rn(__fmul_rn(x, scale), weight); }
// Of a result that is kept in 16 bits before it is used.
__device__ __forceinline__ float rounded(float x) { return to_float(from_float<bf16>(x)); }
