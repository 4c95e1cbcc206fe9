// What every generated elementwise kernel begins with; elementwise.ts appends the kernel. Floats are computed with in f32.
// Integers are computed with in f64, which holds them exactly, and wrap when they are stored, as in JavaScript.
#include "common.cuh"

struct flag {
  u8 bits;
};

__device__ __forceinline__ float value_of(float x) { return x; }
__device__ __forceinline__ float value_of(bf16 x) { return to_float(x); }
__device__ __forceinline__ float value_of(f16 x) { return to_float(x); }
__device__ __forceinline__ float value_of(flag x) { return x.bits; }
__device__ __forceinline__ double value_of(int x) { return x; }
__device__ __forceinline__ double value_of(u32 x) { return x; }
__device__ __forceinline__ double value_of(u8 x) { return x; }

// The truncated number, right modulo 2^32; 0 for NaN and infinities. A float from 2^63 on is a multiple of 2^32.
__device__ __forceinline__ i64 whole(float x) { return fabsf(x) < 0x1p63f ? (i64)x : 0; }
__device__ __forceinline__ i64 whole(double x) {
  if (!(fabs(x) < 0x1p63)) x = fmod(x, 0x1p32);
  return x == x ? (i64)x : 0;
}

template <typename T> struct Floating {
  static __device__ __forceinline__ T from(float x) { return from_float<T>(x); }
  static __device__ __forceinline__ T from(double x) { return from_float<T>((float)x); }
  static __device__ __forceinline__ T from(int x) { return from_float<T>((float)x); }
};

// How the value of an expression is stored.
template <typename T> struct Convert {
  static __device__ __forceinline__ T from(float x) { return (T)whole(x); }
  static __device__ __forceinline__ T from(double x) { return (T)whole(x); }
  static __device__ __forceinline__ T from(int x) { return (T)x; }
};
template <> struct Convert<float> : Floating<float> {};
template <> struct Convert<bf16> : Floating<bf16> {};
template <> struct Convert<f16> : Floating<f16> {};
template <> struct Convert<flag> {
  template <typename V> static __device__ __forceinline__ flag from(V x) { return flag{(u8)(x != 0)}; }
};

// Functions for both kinds of value, by the names of JavaScript's Math.
namespace math {
__device__ __forceinline__ float abs(float x) { return fabsf(x); }
__device__ __forceinline__ double abs(double x) { return fabs(x); }
__device__ __forceinline__ float exp(float x) { return expf(x); }
__device__ __forceinline__ double exp(double x) { return ::exp(x); }
__device__ __forceinline__ float log(float x) { return logf(x); }
__device__ __forceinline__ double log(double x) { return ::log(x); }
__device__ __forceinline__ float sqrt(float x) { return sqrtf(x); }
__device__ __forceinline__ double sqrt(double x) { return ::sqrt(x); }
__device__ __forceinline__ float tanh(float x) { return tanhf(x); }
__device__ __forceinline__ double tanh(double x) { return ::tanh(x); }
__device__ __forceinline__ float sin(float x) { return sinf(x); }
__device__ __forceinline__ double sin(double x) { return ::sin(x); }
__device__ __forceinline__ float cos(float x) { return cosf(x); }
__device__ __forceinline__ double cos(double x) { return ::cos(x); }

template <typename V> __device__ __forceinline__ V sign(V x) {
  return x > 0 ? V(1) : x < 0 ? V(-1) : x;
}

__device__ __forceinline__ float power(float a, float b) { return powf(a, b); }
__device__ __forceinline__ double power(double a, double b) { return ::pow(a, b); }
// Unlike C's, NaN where b is NaN, and where it is infinite and |a| = 1.
template <typename V> __device__ __forceinline__ V pow(V a, V b) {
  if (b != b) return b;
  if (abs(a) == 1 && b - b != 0) return b - b;
  return power(a, b);
}
} // namespace math
