// Sums, maxima and their places along the middle axis of [outer, length, inner]. Which elements are added in which order
// depends on length, inner and the element type alone: not on outer, on addresses or on the device. What is long is cut into
// parts, whose states a further launch reduces (FIRST 0).
#include "common.cuh"

#ifndef DTYPE
#define DTYPE bf16
#define OPERATION Sum
#define FLOATING 1
#define FIRST 1
#define LAST 0
#define PACKED 1
#define WIDTH 256
#define COLUMNS 32
#define LANES 8
#define CHUNK 256
#endif

typedef DTYPE T;

#if FLOATING
typedef float Value;
__device__ __forceinline__ Value value_of(T x) { return to_float(x); }
__device__ __forceinline__ T store(Value x) { return from_float<T>(x); }
__device__ __forceinline__ Value least() { return __uint_as_float(0xff800000u); }
__device__ __forceinline__ Value most() { return __uint_as_float(0x7f800000u); }
#else
typedef i64 Value;
__device__ __forceinline__ Value value_of(T x) { return x; }
__device__ __forceinline__ T store(Value x) { return (T)x; }
__device__ __forceinline__ Value least() { return (Value)(1ull << 63); }
__device__ __forceinline__ Value most() { return (Value)(~0ull >> 1); }
#endif

struct Sum {
  typedef Value State;
  typedef T Result;
  static __device__ __forceinline__ State none() { return 0; }
  static __device__ __forceinline__ State of(Value x, int) { return x; }
  static __device__ __forceinline__ State merge(State a, State b) { return a + b; }
  static __device__ __forceinline__ Result result(State x) { return store(x); }
};

// NaN where any element is.
struct Max {
  typedef Value State;
  typedef T Result;
  static __device__ __forceinline__ State none() { return least(); }
  static __device__ __forceinline__ State of(Value x, int) { return x; }
  static __device__ __forceinline__ State merge(State a, State b) { return b > a || b != b ? b : a; }
  static __device__ __forceinline__ Result result(State x) { return store(x); }
};

struct Place {
  Value value;
  int index;
};

// The first of equals. As in a loop that asks `x > best`, NaN wins if it is first, and nowhere else.
struct Argmax {
  typedef Place State;
  typedef int Result;
  static __device__ __forceinline__ State none() { return Place{least(), 0x7fffffff}; }
  static __device__ __forceinline__ State of(Value x, int index) {
    if (x == x) return Place{x, index};
    return index == 0 ? Place{most(), 0} : none();
  }
  static __device__ __forceinline__ State merge(State a, State b) {
    return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
  }
  static __device__ __forceinline__ Result result(State x) { return x.index; }
};

typedef OPERATION Op;
typedef Op::State State;

#if FIRST
typedef T In;
__device__ __forceinline__ State state_of(In x, i64 index) { return Op::of(value_of(x), (int)index); }
#else
typedef State In;
__device__ __forceinline__ State state_of(In x, i64) { return x; }
#endif
#if LAST
typedef Op::Result Out;
__device__ __forceinline__ Out finish(State x) { return Op::result(x); }
#else
typedef State Out;
__device__ __forceinline__ Out finish(State x) { return x; }
#endif

constexpr int VEC = 16 / sizeof(In);

__device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// inner = 1: WIDTH threads take CHUNK elements of a row; out [outer, parts].
extern "C" __global__ void __launch_bounds__(256) reduce_rows(const In *x, Out *out, i64 outer, i64 length, i64 parts) {
  __shared__ State shared[256];
  const int lane = threadIdx.x % WIDTH;
  const i64 item = (i64)blockIdx.x * (256 / WIDTH) + threadIdx.x / WIDTH;
  const i64 row = item / parts, begin = (item - row * parts) * CHUNK, end = smaller(length, begin + CHUNK);
  State state[VEC];
#pragma unroll
  for (int v = 0; v < VEC; v++) state[v] = Op::none();
  if (row < outer) {
    x += row * length;
#pragma unroll 2
    for (i64 at = begin + lane * VEC; at < end; at += WIDTH * VEC) {
#if PACKED
      const Pack<In, VEC> held = *(const Pack<In, VEC> *)(x + at);
#pragma unroll
      for (int v = 0; v < VEC; v++) state[v] = Op::merge(state[v], state_of(held.at[v], at + v));
#else
#pragma unroll
      for (int v = 0; v < VEC; v++)
        if (at + v < end) state[v] = Op::merge(state[v], state_of(x[at + v], at + v));
#endif
    }
  }
#pragma unroll
  for (int half = VEC / 2; half > 0; half /= 2)
#pragma unroll
    for (int v = 0; v < half; v++) state[v] = Op::merge(state[v], state[v + half]);
  shared[threadIdx.x] = state[0];
#pragma unroll
  for (int half = WIDTH / 2; half > 0; half /= 2) {
    if (WIDTH == 32) __syncwarp();
    else __syncthreads();
    if (lane < half) shared[threadIdx.x] = Op::merge(shared[threadIdx.x], shared[threadIdx.x + half]);
  }
  if (lane == 0 && row < outer) out[item] = finish(shared[threadIdx.x]);
}

// inner > 1: a block takes CHUNK rows of COLUMNS × VEC columns, LANES rows at once; out [outer, parts, inner].
extern "C" __global__ void __launch_bounds__(COLUMNS *LANES)
reduce_columns(const In *x, Out *out, i64 outer, i64 length, i64 inner, i64 parts) {
  __shared__ State shared[COLUMNS * LANES];
  const i64 across = (inner + COLUMNS * VEC - 1) / (COLUMNS * VEC);
  const i64 item = blockIdx.x / across;
  const i64 block = item / parts, begin = (item - block * parts) * CHUNK, end = smaller(length, begin + CHUNK);
  const int lane = threadIdx.x / COLUMNS;
  const i64 column = ((blockIdx.x - item * across) * COLUMNS + threadIdx.x % COLUMNS) * VEC;
  State state[VEC];
#pragma unroll
  for (int v = 0; v < VEC; v++) state[v] = Op::none();
  if (column < inner) {
    x += block * length * inner + column;
#pragma unroll 4
    for (i64 j = begin + lane; j < end; j += LANES) {
#if PACKED
      const Pack<In, VEC> held = *(const Pack<In, VEC> *)(x + j * inner);
#pragma unroll
      for (int v = 0; v < VEC; v++) state[v] = Op::merge(state[v], state_of(held.at[v], j));
#else
#pragma unroll
      for (int v = 0; v < VEC; v++)
        if (column + v < inner) state[v] = Op::merge(state[v], state_of(x[j * inner + v], j));
#endif
    }
  }
#pragma unroll
  for (int v = 0; v < VEC; v++) {
    if (v > 0) __syncthreads();
    shared[threadIdx.x] = state[v];
#pragma unroll
    for (int half = LANES / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane < half) shared[threadIdx.x] = Op::merge(shared[threadIdx.x], shared[threadIdx.x + half * COLUMNS]);
    }
    if (lane == 0 && column + v < inner) out[item * inner + column + v] = finish(shared[threadIdx.x]);
  }
}

// Short rows or few columns: a thread for each result.
extern "C" __global__ void __launch_bounds__(256) reduce_each(const In *x, Out *out, i64 outer, i64 length, i64 inner) {
  const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
  if (i >= outer * inner) return;
  const i64 block = i / inner;
  x += block * length * inner + (i - block * inner);
  State state = Op::none();
  for (i64 j = 0; j < length; j++) state = Op::merge(state, state_of(x[j * inner], j));
  out[i] = finish(state);
}
