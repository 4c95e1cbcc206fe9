// Draws a token for each row of logits [rows, vocabulary] (f32), with its log-probability. What a row gets depends on the row alone.
//
// The log-probability has the arithmetic of linearLogprobHopper.cu, so the training forward gives the same bits. The draw is that of
// lib/random.ts: Gumbel-max with Philox noise named by (step, task, sample and turn, position) and the token's id, compared in f64.
#include "common.cuh"

constexpr int COLUMNS = 256; // of a chunk
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
#define INFINITE __int_as_float(0x7f800000)

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What is asked of a row; all arrays [rows].
struct Draws {
  const float *temperature; // 0 is greedy, and counts as 1 for the log-probability
  const float *topP, *minP; // 1 and 0 for off
  const int *topK;          // 0 for off
  const int *site;          // [rows, 3]: step, task, sample · 65536 + turn
  const int *lengths;       // position of the token to draw; 0 for an empty row
  u32 seed0, seed1;
};

__device__ __forceinline__ float unit_of(float temperature) { return 1.0f / (temperature > 0 ? temperature : 1.0f); }

// Philox4x32-10.
__device__ __forceinline__ uint4 philox(uint4 counter, u32 key0, u32 key1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u32 high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
    const u32 high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
    counter = make_uint4(high1 ^ counter.y ^ key0, low1, high0 ^ counter.w ^ key1, low0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Maximum and sum of each chunk: parts [rows, chunks, 2] = m, s. Four lanes have a chunk. Grid (⌈chunks / 64⌉, rows).
extern "C" __global__ void __launch_bounds__(256)
sample_chunks(const float *logits, Draws draws, float *parts, int vocabulary, int chunks) {
  const int row = blockIdx.y, chunk = blockIdx.x * 64 + threadIdx.x / 4, t = threadIdx.x % 4;
  if (draws.lengths[row] == 0) return;
  logits += (i64)row * vocabulary;
  const float c = __fmul_rn(unit_of(draws.temperature[row]), LOG2E);
  const int from = chunk * COLUMNS + 2 * t;
  float top = -1e30f;
  for (int j = 0; j < 32; j++)
#pragma unroll
    for (int e = 0; e < 2; e++)
      if (from + 8 * j + e < vocabulary && chunk < chunks) top = fmaxf(top, logits[from + 8 * j + e]);
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
  const float m = __fmul_rn(top, c);
  float s[2] = {0, 0};
#pragma unroll 8
  for (int j = 0; j < 32; j++)
#pragma unroll
    for (int e = 0; e < 2; e++)
      if (from + 8 * j + e < vocabulary && chunk < chunks)
        s[e] = __fadd_rn(s[e], exp2_fast(__fmaf_rn(logits[from + 8 * j + e], c, -m)));
  float sum = __fadd_rn(s[0], s[1]);
  sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 1));
  sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 2));
  if (t == 0 && chunk < chunks) {
    float *to = parts + ((i64)row * chunks + chunk) * 2;
    to[0] = m;
    to[1] = sum;
  }
}

// Bins of equal width below `top`, the first holding the largest logits; monotone in x.
constexpr int BINS = 2048;
__device__ __forceinline__ int bin_of(float x, float top, float scale) {
  const float at = __fmul_rn(__fsub_rn(top, x), scale);
  return at < BINS - 1 ? (int)at : BINS - 1;
}

// Smallest logit of those that, from the largest down, together first weigh `target`; `weigh` gives whole numbers, so that the order of
// addition does not matter. Looks at logits of at least `floor` alone. For the whole block of 1024.
template <typename Weigh>
__device__ float threshold(const float *logits, int vocabulary, float top, float floor, u64 target, u64 *bins, Weigh weigh) {
  __shared__ int chosen;
  __shared__ u64 before;
  __shared__ float high, low;
  float scale = BINS / 16.0f, ceiling = top;
  u64 passed = 0;
  for (int level = 0; level < 4; level++) {
    for (int i = threadIdx.x; i < BINS; i += 1024) bins[i] = 0;
    if (threadIdx.x == 0) high = -INFINITE, low = INFINITE;
    __syncthreads();
    for (int i = threadIdx.x; i < vocabulary; i += 1024) {
      const float x = logits[i];
      if (x >= floor && x <= ceiling) {
        const u64 weight = weigh(x);
        if (weight) atomicAdd((unsigned long long *)&bins[bin_of(x, ceiling, scale)], weight);
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = 0;
      u64 sum = passed;
      while (bin < BINS - 1 && sum + bins[bin] < target) sum += bins[bin++];
      chosen = bin;
      before = sum;
    }
    __syncthreads();
    passed = before;
    // The largest and the smallest logit of the bin: the next level looks between them.
    float most = -INFINITE, least = INFINITE;
    for (int i = threadIdx.x; i < vocabulary; i += 1024) {
      const float x = logits[i];
      if (x >= floor && x <= ceiling && bin_of(x, ceiling, scale) == chosen && weigh(x)) {
        most = fmaxf(most, x);
        least = fminf(least, x);
      }
    }
    most = warp_max(most);
    least = -warp_max(-least);
    for (int warp = 0; warp < 32; warp++) {
      if (threadIdx.x == warp * 32) high = fmaxf(high, most), low = fminf(low, least);
      __syncthreads();
    }
    const float next = high, bottom = low;
    __syncthreads();
    if (next <= bottom) return bottom; // one value, or none at all
    ceiling = next;
    floor = bottom;
    scale = (BINS - 1) / (next - bottom);
  }
  return floor;
}

// Per row: limits [rows, 3] = M, log2 of the sum, and the smallest logit that may be drawn. Shared memory: BINS · 8 bytes. Grid (rows).
extern "C" __global__ void __launch_bounds__(1024)
sample_limits(const float *logits, Draws draws, const float *parts, float *limits, int vocabulary, int chunks) {
  __shared__ u64 bins[BINS];
  __shared__ float sums[32];
  const int row = blockIdx.x, lane = threadIdx.x % 32;
  if (draws.lengths[row] == 0) return;
  logits += (i64)row * vocabulary;
  parts += (i64)row * chunks * 2;
  float top = -INFINITE;
  for (int i = threadIdx.x; i < chunks; i += 1024) top = fmaxf(top, parts[2 * i]);
  top = block_max<1024>(top, sums);
  __syncthreads();
  float s = 0;
  float2 *terms = (float2 *)bins;
  for (int from = 0; from < chunks; from += BINS) {
    const int count = chunks - from < BINS ? chunks - from : BINS;
    for (int i = threadIdx.x; i < count; i += 1024) {
      const float *part = parts + 2 * (from + i);
      terms[i] = make_float2(part[1], exp2_fast(__fsub_rn(part[0], top)));
    }
    __syncthreads();
    if (threadIdx.x < 8)
#pragma unroll 8
      for (int i = threadIdx.x; i < count; i += 8) s = __fmaf_rn(terms[i].x, terms[i].y, s);
    __syncthreads();
  }
  if (threadIdx.x < 8) sums[threadIdx.x] = s;
  __syncthreads();
  float total = sums[0];
#pragma unroll
  for (int k = 1; k < 8; k++) total = __fadd_rn(total, sums[k]);

  const float temperature = draws.temperature[row], p = draws.topP[row], least = draws.minP[row];
  const int k = draws.topK[row];
  float limit = -INFINITE;
  if (temperature > 0 && (k > 0 || p < 1 || least > 0)) {
    float most = -INFINITE;
    for (int i = threadIdx.x; i < vocabulary; i += 1024) most = fmaxf(most, logits[i]);
    __syncthreads();
    most = block_max<1024>(most, sums);
    __syncthreads();
    const float unit = 1.0f / temperature;
    // 2^40 for the likeliest.
    const auto mass = [&](float x) { return (u64)(exp2((double)(x - most) * unit * 1.4426950408889634) * 1099511627776.0); };
    if (k > 0 && k < vocabulary) limit = threshold(logits, vocabulary, most, limit, k, bins, [](float) { return (u64)1; });
    if (p < 1) {
      __shared__ u64 whole;
      if (threadIdx.x == 0) whole = 0;
      __syncthreads();
      u64 mine = 0;
      for (int i = threadIdx.x; i < vocabulary; i += 1024)
        if (logits[i] >= limit) mine += mass(logits[i]);
      atomicAdd((unsigned long long *)&whole, mine);
      __syncthreads();
      const u64 target = (u64)((double)whole * p);
      limit = fmaxf(limit, threshold(logits, vocabulary, most, limit, target > 1 ? target : 1, bins, mass));
    }
    if (least > 0) limit = fmaxf(limit, (float)(most + (double)temperature * log((double)least)));
    limit = fminf(limit, most);
  }
  if (threadIdx.x == 0) {
    float *to = limits + 3 * row;
    to[0] = top;
    to[1] = log2f(total);
    to[2] = limit;
  }
}

struct Best {
  double score;
  int id;
  __device__ __forceinline__ bool beats(const Best &other) const {
    return score > other.score || (score == other.score && id < other.id);
  }
};

// The best of each part of PART columns: best [rows, parts]. Grid (parts, rows).
constexpr int PART = 4096;
extern "C" __global__ void __launch_bounds__(256)
sample_draw(const float *logits, Draws draws, const float *limits, Best *best, int vocabulary) {
  __shared__ Best found[8];
  const int row = blockIdx.y, lane = threadIdx.x % 32;
  const int position = draws.lengths[row];
  if (position == 0) return;
  logits += (i64)row * vocabulary;
  const int *site = draws.site + 3 * row;
  const uint4 name = philox(make_uint4(site[0], site[1], site[2], position), draws.seed0, draws.seed1);
  const double temperature = draws.temperature[row];
  const float limit = limits[3 * row + 2];
  Best mine{-1e300, 0x7fffffff};
  for (int i = threadIdx.x; i < PART / 4; i += 256) {
    const int first = blockIdx.x * PART + 4 * i;
    if (first >= vocabulary) break;
    const uint4 words = temperature > 0 ? philox(make_uint4(first / 4, 0, 0, 0), name.x, name.y) : uint4{};
    const u32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int id = first + j;
      if (id >= vocabulary) continue;
      const float x = logits[id];
      if (!(x >= limit)) continue;
      Best next{x, id};
      if (temperature > 0) {
        next.score = x / temperature;
        const double v = (word[j] + 0.5) * 0x1p-32;
        // -log(1 - v) >= v: a token wins only with v below exp(logit - best).
        if ((float)v > expf((float)(next.score - mine.score)) * 1.0001f) continue;
        next.score += -log(-log(1 - v));
      }
      if (next.beats(mine)) mine = next;
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const Best other{__shfl_xor_sync(0xffffffffu, mine.score, offset), __shfl_xor_sync(0xffffffffu, mine.id, offset)};
    if (other.beats(mine)) mine = other;
  }
  if (lane == 0) found[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x > 0) return;
#pragma unroll
  for (int warp = 1; warp < 8; warp++)
    if (found[warp].beats(mine)) mine = found[warp];
  best[(i64)row * gridDim.x + blockIdx.x] = mine;
}

// ids and logprobs [rows]; -1 and 0 for an empty row, -1 where no logit is a number. A warp has a row.
extern "C" __global__ void __launch_bounds__(128)
sample_finish(const float *logits, Draws draws, const float *limits, const Best *best, int *ids, float *logprobs, int rows, int vocabulary,
              int parts) {
  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  Best mine{-1e300, 0x7fffffff};
  if (draws.lengths[row] > 0)
    for (int i = lane; i < parts; i += 32)
      if (best[(i64)row * parts + i].beats(mine)) mine = best[(i64)row * parts + i];
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const Best other{__shfl_xor_sync(0xffffffffu, mine.score, offset), __shfl_xor_sync(0xffffffffu, mine.id, offset)};
    if (other.beats(mine)) mine = other;
  }
  if (lane > 0) return;
  const bool known = mine.id < vocabulary;
  ids[row] = known ? mine.id : -1;
  const float c = __fmul_rn(unit_of(draws.temperature[row]), LOG2E);
  logprobs[row] = !known ? 0.0f
      : __fmul_rn(__fsub_rn(__fsub_rn(__fmul_rn(logits[(i64)row * vocabulary + mine.id], c), limits[3 * row]), limits[3 * row + 1]), LN2);
}
