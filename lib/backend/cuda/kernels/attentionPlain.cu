// Causal attention over packed sequences on CUDA cores: any even head dimension up to 256, any floating type, f32 arithmetic.
// x [tokens, (heads + 2 kvHeads) HEAD_DIM] = query heads, key heads, value heads in each row; y [tokens, heads HEAD_DIM];
// lse [tokens, heads] in natural logarithms. attentionTile.cuh has the arithmetic and the meaning of an item.
// Blocks of 256 threads, grid (items, kvHeads); `scale` is HEAD_DIM^-0.5, times log2 e for 16-bit types.
#include "attentionTile.cuh"

// Shared memory: ROW_FLOATS + 2 TILE_FLOATS + 32 floats.
extern "C" __global__ void __launch_bounds__(256)
    attention_plain(const T *x, const Item *items, int heads, int kvHeads, float scale, T *y, float *lse) {
  const Item item = items[blockIdx.x];
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const T *k = x + (i64)(heads + blockIdx.y) * HEAD_DIM;
  plain_forward(x, PackedKeys{k, k + kvHeads * HEAD_DIM, width, item.keys}, item, heads, kvHeads, scale, y, lse, nullptr);
}

// delta [rows] = sum of dy * y, both [rows, HEAD_DIM]; a warp a row.
extern "C" __global__ void __launch_bounds__(256) attention_delta(const T *dy, const T *y, float *delta, i64 rows) {
  const i64 row = (i64)blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0;
  for (int d = threadIdx.x % 32; d < HEAD_DIM; d += 32) sum = __fmaf_rn(to_float(dy[row * HEAD_DIM + d]), to_float(y[row * HEAD_DIM + d]), sum);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

__device__ __forceinline__ void write_gradient(T *to, const float (&o)[DIMS], float factor) {
#pragma unroll
  for (int i = 0; i < DIMS; i++) {
    const int d = threadIdx.x % 32 + 32 * i;
    if (HEAD_DIM % 32 == 0 || d < HEAD_DIM) to[d] = from_float<T>(o[i] * factor);
  }
}

// Both gradients: shared memory 2 ROW_FLOATS + 2 TILE_FLOATS + 32 floats; `factor` is HEAD_DIM^-0.5. P = exp(s - lse),
// dS = P (dy v - delta).

// dq of an item's rows: sum over keys of dS k.
extern "C" __global__ void __launch_bounds__(256)
    attention_plain_dq(const T *dy, const T *x, const float *lse, const float *delta, const Item *items, int heads, int kvHeads,
                       float scale, float factor, T *dx) {
  float *q = (float *)dynamic_shared, *g = q + ROW_FLOATS, *k = g + ROW_FLOATS, *v = k + TILE_FLOATS;
  const Item item = items[blockIdx.x];
  const int lane = threadIdx.x % 32, group = heads / kvHeads, head = blockIdx.y * group, last = last_position(item, ROWS, group);
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const auto index = [&](int flat) { return (i64)(item.query + flat / group) * heads + head + flat % group; };
  const auto query = [&](int flat) { return (item.query + flat / group) * width + (head + flat % group) * HEAD_DIM; };
  const auto inside = [&](int flat, i64 at) { return flat < item.flats ? at : -1; };
  plain_load<ROWS, HEAD_DIM>(q, x, [&](int row) { return inside(item.flat + row, query(item.flat + row)); });
  plain_load<ROWS, HEAD_DIM>(g, dy, [&](int row) { return inside(item.flat + row, index(item.flat + row) * HEAD_DIM); });
  float dq[R][DIMS], offset[R], d[R];
  int position[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int flat = item.flat + plain_row(r);
    position[r] = flat < item.flats ? item.first + flat / group : -1;
    offset[r] = position[r] < 0 ? 0 : Exp::unit(lse[index(flat)]);
    d[r] = position[r] < 0 ? 0 : delta[index(flat)];
#pragma unroll
    for (int i = 0; i < DIMS; i++) dq[r][i] = 0;
  }
  const T *keys = x + (heads + blockIdx.y) * HEAD_DIM, *values = keys + kvHeads * HEAD_DIM;
  for (int start = 0; start <= last; start += KEYS) {
    __syncthreads();
    const auto at = [&](int key) { return start + key <= last ? (item.keys + start + key) * width : -1; };
    plain_load<KEYS, PITCH>(k, keys, at);
    plain_load<KEYS, PITCH>(v, values, at);
    __syncthreads();
    float s[R], dp[R];
    plain_dots(s, q, k);
    plain_dots(dp, g, v);
#pragma unroll
    for (int r = 0; r < R; r++)
      s[r] = start + lane <= position[r] ? Exp::of(__fmul_rn(s[r], scale) - offset[r]) * (dp[r] - d[r]) : 0.f;
    plain_weigh(dq, s, k);
  }
#pragma unroll
  for (int r = 0; r < R; r++)
    if (position[r] >= 0) write_gradient(dx + query(item.flat + plain_row(r)), dq[r], factor);
}

// dk and dv of an item's keys item.flat ... + ROWS - 1 (of item.flats): sums over the flat rows that see them, in order.
extern "C" __global__ void __launch_bounds__(256)
    attention_plain_dkv(const T *dy, const T *x, const float *lse, const float *delta, const Item *items, int heads, int kvHeads,
                        float scale, float factor, T *dx) {
  float *k = (float *)dynamic_shared, *v = k + ROW_FLOATS, *q = v + ROW_FLOATS, *g = q + TILE_FLOATS;
  const Item item = items[blockIdx.x];
  const int lane = threadIdx.x % 32, group = heads / kvHeads, head = blockIdx.y * group, flats = item.flats * group;
  const i64 width = (i64)(heads + 2 * kvHeads) * HEAD_DIM;
  const i64 keys = (heads + blockIdx.y) * HEAD_DIM, values = keys + kvHeads * HEAD_DIM;
  const auto key = [&](int row) { return item.flat + row < item.flats ? (item.keys + item.flat + row) * width : -1; };
  plain_load<ROWS, HEAD_DIM>(k, x + keys, key);
  plain_load<ROWS, HEAD_DIM>(v, x + values, key);
  float dk[R][DIMS], dv[R][DIMS];
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int i = 0; i < DIMS; i++) dk[r][i] = dv[r][i] = 0;
  for (int start = item.flat * group / KEYS * KEYS; start < flats; start += KEYS) {
    __syncthreads();
    const auto index = [&](int flat) { return (i64)(item.query + flat / group) * heads + head + flat % group; };
    plain_load<KEYS, PITCH>(q, x, [&](int row) -> i64 {
      const int flat = start + row;
      return flat < flats ? (item.query + flat / group) * width + (head + flat % group) * HEAD_DIM : -1;
    });
    plain_load<KEYS, PITCH>(g, dy, [&](int row) { return start + row < flats ? index(start + row) * HEAD_DIM : -1; });
    __syncthreads();
    const int flat = start + lane, position = flat < flats ? flat / group : -1;
    const float offset = position < 0 ? 0 : Exp::unit(lse[index(flat)]), d = position < 0 ? 0 : delta[index(flat)];
    float p[R], ds[R];
    plain_dots(p, k, q);
    plain_dots(ds, v, g);
#pragma unroll
    for (int r = 0; r < R; r++) {
      p[r] = item.flat + plain_row(r) <= position ? Exp::of(__fmul_rn(p[r], scale) - offset) : 0.f;
      ds[r] = p[r] * (ds[r] - d);
    }
    plain_weigh(dk, ds, q);
    plain_weigh(dv, p, g);
  }
#pragma unroll
  for (int r = 0; r < R; r++) {
    const i64 at = key(plain_row(r));
    if (at < 0) continue;
    write_gradient(dx + keys + at, dk[r], factor);
    write_gradient(dx + values + at, dv[r], 1);
  }
}
