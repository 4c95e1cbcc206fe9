// Copies between strided arrays, transposes, and single elements by index. A word is one element, or several that lie
// together on both sides.
#include "common.cuh"

#ifndef WORD
#define WORD uint4
#define RANK 3
#define INDEX u32
#define TILE 32
#endif

typedef WORD Word;
typedef INDEX Index;

struct Axes {
  Index extent[RANK], from[RANK], to[RANK];
};

// Copies `size` words, which lie along RANK axes with their own strides on both sides.
extern "C" __global__ void __launch_bounds__(256) copy_strided(const Word *x, Word *y, Index size, const Axes axes) {
  for (Index i = (Index)blockIdx.x * 256 + threadIdx.x; i < size; i += (Index)gridDim.x * 256) {
    Index rest = i, from = 0, to = 0;
#pragma unroll
    for (int d = RANK - 1; d > 0; d--) {
      const Index next = rest / axes.extent[d], at = rest - next * axes.extent[d];
      from += at * axes.from[d];
      to += at * axes.to[d];
      rest = next;
    }
    y[to + rest * axes.to[0]] = x[from + rest * axes.from[0]];
  }
}

// y[…, j, i] = x[…, i, j] for `rows` i, a row of x being `from` apart, and `columns` j, a row of y being `to` apart. The other
// axes are those of `axes`. A block moves TILE × TILE words through shared memory.
extern "C" __global__ void __launch_bounds__(256)
transpose(const Word *x, Word *y, Index rows, Index columns, Index from, Index to, const Axes axes) {
  __shared__ Word tile[TILE][TILE + 4 / sizeof(Word) + (sizeof(Word) > 4)];
  const Index across = (columns + TILE - 1) / TILE, down = (rows + TILE - 1) / TILE;
  Index block = blockIdx.x;
  const Index j0 = block % across * TILE;
  block /= across;
  const Index i0 = block % down * TILE;
  Index rest = block / down;
#pragma unroll
  for (int d = RANK - 1; d >= 0; d--) {
    const Index next = rest / axes.extent[d], at = rest - next * axes.extent[d];
    x += at * axes.from[d];
    y += at * axes.to[d];
    rest = next;
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = warp; i < TILE; i += 8)
#pragma unroll
    for (int j = lane; j < TILE; j += 32)
      if (i0 + i < rows && j0 + j < columns) tile[i][j] = x[(i0 + i) * from + j0 + j];
  __syncthreads();
#pragma unroll
  for (int j = warp; j < TILE; j += 8)
#pragma unroll
    for (int i = lane; i < TILE; i += 32)
      if (i0 + i < rows && j0 + j < columns) y[(j0 + j) * to + i0 + i] = tile[i][j];
}

// y[i] = x[i, index[i]]; x [n, columns].
extern "C" __global__ void __launch_bounds__(256) pick(const Word *x, const int *index, Word *y, int n, int columns) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  check_index(index[i], 0, columns);
  y[i] = x[(i64)i * columns + index[i]];
}

// y[i, index[i]] = x[i]; y [n, columns].
extern "C" __global__ void __launch_bounds__(256) unpick(const Word *x, const int *index, Word *y, int n, int columns) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  check_index(index[i], 0, columns);
  y[(i64)i * columns + index[i]] = x[i];
}
