// Draws a token for each row of logits [rows, vocabulary] (f32), with its log-probability. What a row gets depends on the row alone.
//
// The log-probability has the arithmetic of linearLogprobHopper.cu, so the training forward gives the same bits. The draw is that of
// lib/random.ts: Gumbel-max with Philox noise named by (step, task, sample and turn, position) and the token's id, compared in f64.
//
// Filters. A logit falls into one of BINS bins by its distance from the largest, in units of the temperature, and into one of BINS
// parts of that bin; logits of one part (2^-16 apart at most) are ties. Three rounds find where to cut: the first counts bins; the
// second the parts of the bin in which the top-k-th logit lies; the third the parts of the bin in which top-p's mass is reached. Masses
// are whole numbers, 2^32 for the largest logit, so that the order in which they are added does not matter. The last cut gives the
// smallest logit that is kept, which is all that the draw asks.
#include "common.cuh"
#include "overlap.cuh"

constexpr int COLUMNS = 256; // of a chunk
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
#define INFINITE __int_as_float(0x7f800000)

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Columns first to first + 3 of a row, NaN where there are none; first is a multiple of 4. `fours`: they can be read at once.
__device__ __forceinline__ Pack<float> four_of(const float *row, int first, int vocabulary, bool fours) {
  Pack<float> x;
#pragma unroll
  for (int j = 0; j < 4; j++) x.at[j] = __int_as_float(0x7fffffff);
  if (fours) {
    if (first < vocabulary) x = *(const Pack<float> *)(row + first);
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (first + j < vocabulary) x.at[j] = row[first + j];
  }
  return x;
}
__device__ __forceinline__ bool in_fours(const float *row, int vocabulary) { return vocabulary % 4 == 0 && (u64)row % 16 == 0; }

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

// Maximum and sum of each chunk: parts [rows, chunks, 3] = m, s, largest logit. Four lanes have a chunk. Grid (⌈chunks / 64⌉, rows).
extern "C" __global__ void __launch_bounds__(256)
sample_chunks(const float *logits, Draws draws, float *parts, int vocabulary, int chunks) {
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.y, chunk = blockIdx.x * 64 + threadIdx.x / 4, t = threadIdx.x % 4;
  if (draws.lengths[row] == 0) return;
  logits += (i64)row * vocabulary;
  const float c = __fmul_rn(unit_of(draws.temperature[row]), LOG2E);
  const int from = chunk * COLUMNS + 2 * t;
  const bool pairs = vocabulary % 2 == 0 && (u64)logits % 8 == 0;
  float held[64], top = -1e30f;
#pragma unroll
  for (int i = 0; i < 64; i += 2) {
    const int column = from + i / 2 * 8;
    Pack<float, 2> two = {-1e30f, -1e30f};
    if (pairs) {
      if (column < vocabulary) two = *(const Pack<float, 2> *)(logits + column);
    } else {
      if (column < vocabulary) two.at[0] = logits[column];
      if (column + 1 < vocabulary) two.at[1] = logits[column + 1];
    }
    held[i] = two.at[0];
    held[i + 1] = two.at[1];
  }
#pragma unroll
  for (int i = 0; i < 64; i++) top = fmaxf(top, held[i]);
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
  const float m = __fmul_rn(top, c);
  float s[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 64; i++) s[i % 2] = __fadd_rn(s[i % 2], exp2_fast(__fmaf_rn(held[i], c, -m)));
  float sum = __fadd_rn(s[0], s[1]);
  sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 1));
  sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 2));
  if (t == 0 && chunk < chunks) {
    float *to = parts + ((i64)row * chunks + chunk) * 3;
    to[0] = m;
    to[1] = sum;
    to[2] = top;
  }
}

constexpr int BINS = 2048;
constexpr float BINS_PER_UNIT = 32;

// What is known of a row.
struct Row {
  float top, log2_sum; // M and log2 of the sum
  float most;          // largest logit
  float lowest;        // smallest that is kept
  int cuts;            // whether anything is cut off
  int kBin, kPart;     // top-k keeps bins before kBin, and of that the parts up to kPart
  int pBin, pPart;     // top-p
  u64 before;          // what lies before the bin that is looked into
  u64 target;          // top-p's share of the mass that top-k keeps
};

struct Place {
  int bin, part;
};

// How far a logit lies from the largest, in units of the temperature.
__device__ __forceinline__ float depth_of(float x, float most, float unit) { return __fmul_rn(__fsub_rn(most, x), unit); }

// Where a logit falls; monotone: a smaller logit never falls before a larger one.
__device__ __forceinline__ Place place_of(float depth) {
  const float at = __fmul_rn(depth, BINS_PER_UNIT);
  if (!(at < BINS - 1)) return {BINS - 1, 0};
  const int bin = (int)at;
  return {bin, (int)__fmul_rn(at - bin, BINS)};
}

__device__ __forceinline__ bool kept(Place at, int bin, int part) { return at.bin < bin || (at.bin == bin && at.part <= part); }

// The mass, 2^32 at depth 0 and rounded down, as 2^16 high + low: shared memory adds only 32 bits at once.
struct Mass {
  u32 high, low;
};

__device__ __forceinline__ Mass mass_of(float depth) {
  const float mass = exp2_fast(__fmul_rn(-depth, LOG2E)) * 65536.0f;
  const u32 high = (u32)mass;
  return {high, (u32)((mass - high) * 65536.0f)};
}

// Per row: merges the chunks, and clears the histograms [rows, ROUNDS, BINS] of counts and masses. Grid (rows).
constexpr int ROUNDS = 3;
extern "C" __global__ void __launch_bounds__(1024)
sample_merge(Draws draws, const float *parts, Row *known, u64 *masses, u32 *counts, int chunks) {
  __shared__ float sums[32];
  __shared__ float2 terms[1024];
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.x;
  if (draws.lengths[row] == 0) return;
  parts += (i64)row * chunks * 3;
  float top = -INFINITE, most = -INFINITE;
  for (int i = threadIdx.x; i < chunks; i += 1024) top = fmaxf(top, parts[3 * i]), most = fmaxf(most, parts[3 * i + 2]);
  top = block_max<1024>(top, sums);
  __syncthreads();
  most = block_max<1024>(most, sums);
  float s = 0;
  for (int from = 0; from < chunks; from += 1024) {
    const int count = chunks - from < 1024 ? chunks - from : 1024;
    __syncthreads();
    if (threadIdx.x < count) {
      const float *part = parts + 3 * (from + threadIdx.x);
      terms[threadIdx.x] = make_float2(part[1], exp2_fast(__fsub_rn(part[0], top)));
    }
    __syncthreads();
    if (threadIdx.x < 8)
#pragma unroll 8
      for (int i = threadIdx.x; i < count; i += 8) s = __fmaf_rn(terms[i].x, terms[i].y, s);
  }
  if (threadIdx.x < 8) sums[threadIdx.x] = s;
  __syncthreads();
  const int k = draws.topK[row];
  const bool cuts = draws.temperature[row] > 0 && (k > 0 || draws.topP[row] < 1 || draws.minP[row] > 0);
  if (threadIdx.x == 0) {
    float total = sums[0];
#pragma unroll
    for (int i = 1; i < 8; i++) total = __fadd_rn(total, sums[i]);
    known[row] = {top, log2f(total), most, -INFINITE, cuts, BINS, 0, BINS, 0, 0, 0};
  }
  if (cuts)
    for (int i = threadIdx.x; i < ROUNDS * BINS; i += 1024) masses[(i64)row * ROUNDS * BINS + i] = counts[(i64)row * ROUNDS * BINS + i] = 0;
}

// Adds a part of `part` columns, at most 2^15 lest 32 bits overflow, to the histogram of a round; pieces are the chunks'. Grid
// (parts, rows).
extern "C" __global__ void __launch_bounds__(256)
sample_count(const float *logits, Draws draws, const float *pieces, const Row *known, u64 *masses, u32 *counts, int vocabulary, int chunks,
             int part, int round) {
  __shared__ u32 high[BINS], low[BINS], count[BINS];
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.y;
  if (draws.lengths[row] == 0 || !known[row].cuts) return;
  const Row it = known[row];
  const int k = draws.topK[row], inside = round == 1 ? it.kBin : it.pBin;
  const bool counted = round < 2 && k > 0 && k < vocabulary, weighed = draws.topP[row] < 1;
  if ((!counted && !weighed) || (round > 0 && inside >= BINS)) return;
  for (int i = threadIdx.x; i < BINS; i += 256) high[i] = low[i] = count[i] = 0;
  __syncthreads();
  logits += (i64)row * vocabulary;
  pieces += (i64)row * chunks * 3;
  const bool fours = in_fours(logits, vocabulary);
  const float unit = unit_of(draws.temperature[row]);
  const int from = blockIdx.x * part + 4 * threadIdx.x, end = min((int)(blockIdx.x + 1) * part, vocabulary);
  // A chunk whose largest logit falls behind the bin is left out.
  const auto load = [&](int first) {
    const bool there = first < end && (round == 0 || place_of(depth_of(pieces[first / COLUMNS * 3 + 2], it.most, unit)).bin <= inside);
    return four_of(logits, there ? first : vocabulary, vocabulary, fours);
  };
  Pack<float> next = load(from);
  for (int first = from; first < end; first += 1024) {
    const Pack<float> x = next;
    next = load(first + 1024);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float depth = depth_of(x.at[j], it.most, unit);
      const Place at = place_of(depth);
      if ((round > 0 && at.bin != inside) || (round == 2 && !kept(at, it.kBin, it.kPart))) continue;
      const int bin = round > 0 ? at.part : at.bin;
      // What is not a number has no mass.
      const Mass mass = mass_of(depth);
      if (weighed && mass.high) atomicAdd(&high[bin], mass.high);
      if (weighed && mass.low) atomicAdd(&low[bin], mass.low);
      if (counted && depth == depth) atomicAdd(&count[bin], 1u);
    }
  }
  __syncthreads();
  const i64 to = ((i64)row * ROUNDS + round) * BINS;
  for (int i = threadIdx.x; i < BINS; i += 256) {
    const u64 mass = ((u64)high[i] << 16) + low[i];
    if (mass) atomicAdd((unsigned long long *)&masses[to + i], (unsigned long long)mass);
    if (count[i]) atomicAdd(&counts[to + i], count[i]);
  }
}

// The sum over all bins, of which each of the block's 1024 threads has two; `sums` are those up to each of the two.
__device__ u64 scan_bins(u64 first, u64 second, u64 *scan, u64 (&sums)[2]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u64 sum = first + second;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const u64 left = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += left;
  }
  __syncthreads(); // nobody needs what the last call left in `scan`
  if (lane == 31) scan[warp] = sum;
  __syncthreads();
  u64 total = 0;
#pragma unroll
  for (int i = 0; i < 32; i++) {
    if (i == warp) sum += total;
    total += scan[i];
  }
  sums[1] = sum;
  sums[0] = sum - second;
  return total;
}

// The smallest number that passes, where all that are larger pass too; NaN if there is none. For all of the block's 1024 threads.
template <typename Passes> __device__ __forceinline__ float lowest_passing(Passes passes) {
  // Floats in order: place 0 is a negative NaN, the last one a positive NaN.
  const auto number = [](u32 place) { return __uint_as_float(place >> 31 ? place ^ 0x80000000u : ~place); };
  const auto fails = [&](u32 place) {
    const float x = number(place);
    return x == x ? !passes(x) : place >> 31 == 0;
  };
  u32 failed = 0; // the largest place known to fail
#pragma unroll
  for (int shift = 22; shift > 0; shift -= 10)
    failed += (u32)__syncthreads_count(threadIdx.x < 1023 && fails(failed + ((threadIdx.x + 1) << shift))) << shift;
  return number(failed + __syncthreads_count(threadIdx.x < 3 && fails(failed + threadIdx.x + 1)) + 1);
}

// After a round: finds the bin, or the part, in which a target is reached. Grid (rows).
extern "C" __global__ void __launch_bounds__(1024)
sample_cut(Draws draws, Row *known, const u64 *masses, const u32 *counts, int vocabulary, int round) {
  __shared__ u64 scan[32];
  __shared__ int reached[2];
  __shared__ u64 passed[2];
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.x;
  if (draws.lengths[row] == 0 || !known[row].cuts) return;
  Row it = known[row];
  const int k = draws.topK[row];
  const float p = draws.topP[row];
  const bool byK = k > 0 && k < vocabulary, byP = p < 1;
  const int first = 2 * threadIdx.x;
  const auto at = [&](int of) { return ((i64)row * ROUNDS + of) * BINS + first; };
  u64 sums[2];
  // The first of the bins whose sum reaches the target, into reached[which], and the sum before it.
  const auto find = [&](int which, u64 target, u64 start, u64 a, u64 b) {
    if (threadIdx.x == 0) reached[which] = BINS - 1, passed[which] = start;
    __syncthreads();
    scan_bins(a, b, scan, sums);
    const u64 values[2] = {a, b};
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u64 sum = start + sums[i], before = sum - values[i];
      if (sum >= target && before < target) reached[which] = first + i, passed[which] = before;
    }
    __syncthreads();
  };
  if (round == 0 && byK) {
    find(0, k, 0, counts[at(0)], counts[at(0) + 1]);
    it.kBin = reached[0];
    it.before = passed[0];
  }
  if (round == 1) {
    if (byK) {
      find(0, k, it.before, counts[at(1)], counts[at(1) + 1]);
      it.kPart = reached[0];
    }
    if (byP) {
      // Of what top-k kept: all bins before kBin, and kPart's share of that.
      const u64 share = scan_bins(byK && first <= it.kPart ? masses[at(1)] : 0, byK && first < it.kPart ? masses[at(1) + 1] : 0, scan, sums);
      __syncthreads();
      const u64 a = first < it.kBin ? masses[at(0)] : first == it.kBin ? share : 0;
      const u64 b = first + 1 < it.kBin ? masses[at(0) + 1] : first + 1 == it.kBin ? share : 0;
      it.target = (u64)((double)scan_bins(a, b, scan, sums) * p);
      if (it.target == 0) it.target = 1;
      __syncthreads();
      find(1, it.target, 0, a, b);
      it.pBin = reached[1];
      it.before = passed[1];
    }
  }
  if (round == 2 && byP) {
    find(1, it.target, it.before, masses[at(2)], masses[at(2) + 1]);
    it.pPart = reached[1];
  }
  if (round == 2) {
    const double temperature = draws.temperature[row];
    const double least = draws.minP[row] > 0 ? it.most + temperature * log((double)draws.minP[row]) : -1e300;
    const float unit = unit_of(draws.temperature[row]);
    it.lowest = lowest_passing([&](float x) {
      const Place at = place_of(depth_of(x, it.most, unit));
      return kept(at, it.kBin, it.kPart) && kept(at, it.pBin, it.pPart) && x >= least;
    });
  }
  if (threadIdx.x == 0) known[row] = it;
}

struct Best {
  double score;
  int id;
  __device__ __forceinline__ bool beats(const Best &other) const {
    return score > other.score || (score == other.score && id < other.id);
  }
};

__device__ __forceinline__ Best best_of_warp(Best mine) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const Best other{__shfl_xor_sync(0xffffffffu, mine.score, offset), __shfl_xor_sync(0xffffffffu, mine.id, offset)};
    if (other.beats(mine)) mine = other;
  }
  return mine;
}

// The best of each part of PART columns: best [rows, parts]. pieces are the chunks'. Grid (parts, rows).
//
// A score in f64 takes two logarithms, so only tokens that may win get one. A token's key in f32, (logit - largest) / temperature -
// log(v), in units of log2, is not below its score beyond the largest logit's, as -log(1 - v) >= v; and above it by SLACK · v at most.
// So the winner's key is at least the largest key - SLACK · v; and at least LEAST_NOISE, since the largest logit is kept and scores
// that. Rounding is far below MARGIN where a token may win: logits further than 26 temperatures from the largest cannot.
constexpr int PART = 4096, FOURS = PART / 1024;
constexpr float SLACK = 4.6f;         // log2(-log(1 - v) / v) / v is 4.52 for the largest v, 1 - 2^-33, and less for others
constexpr float LEAST_NOISE = -4.55f; // -log2(-log(1 - v)) is -4.52 for that
constexpr float MARGIN = 0.01f;
extern "C" __global__ void __launch_bounds__(256)
sample_draw(const float *logits, Draws draws, const float *pieces, const Row *known, Best *best, int vocabulary, int chunks) {
  __shared__ Best found[8];
  __shared__ float bounds[32];
  __shared__ uint2 name;
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.y;
  const int position = draws.lengths[row];
  if (position == 0) return;
  logits += (i64)row * vocabulary;
  pieces += (i64)row * chunks * 3;
  const float most = known[row].most, lowest = known[row].lowest;
  const bool fours = in_fours(logits, vocabulary);
  const auto first_of = [&](int four) { return (int)(blockIdx.x * PART + 4 * (four * 256 + threadIdx.x)); };
  float keys[PART / 256];
  bool any[FOURS];
#pragma unroll
  for (int four = 0; four < FOURS; four++) {
    const int first = first_of(four);
    any[four] = first < vocabulary && pieces[first / COLUMNS * 3 + 2] >= lowest;
    const Pack<float> x = four_of(logits, any[four] ? first : vocabulary, vocabulary, fours);
#pragma unroll
    for (int j = 0; j < 4; j++) keys[4 * four + j] = x.at[j];
  }
  if (threadIdx.x == 0) {
    const int *site = draws.site + 3 * row;
    const uint4 words = philox(make_uint4(site[0], site[1], site[2], position), draws.seed0, draws.seed1);
    name = make_uint2(words.x, words.y);
  }
  __syncthreads();
  const auto words_of = [&](int id) { return philox(make_uint4(id / 4, 0, 0, 0), name.x, name.y); };
  const double temperature = draws.temperature[row];
  const bool greedy = !(temperature > 0);
  const float c = __fmul_rn(unit_of(draws.temperature[row]), LOG2E);
  float bound = greedy ? -3.4028235e38f : LEAST_NOISE;
#pragma unroll
  for (int four = 0; four < FOURS; four++) {
    float *key = keys + 4 * four;
    any[four] = fmaxf(fmaxf(key[0], key[1]), fmaxf(key[2], key[3])) >= lowest;
    if (!any[four]) continue;
    uint4 words = {};
    if (!greedy) words = words_of(first_of(four));
    const u32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const bool there = key[j] >= lowest;
      float low = key[j];
      if (!greedy) {
        const float v = (float)word[j] + 0.5f; // times 2^32
        key[j] = fmaf(key[j] - most, c, 32 - log2_fast(v));
        low = fmaf(v, -SLACK * 0x1p-32f, key[j]);
      }
      if (there) bound = fmaxf(bound, low);
      else key[j] = -INFINITE;
    }
  }
  bound = block_max<256>(bound, bounds) - MARGIN;
  u32 candidates = 0;
#pragma unroll
  for (int i = 0; i < PART / 256; i++)
    if (any[i / 4] && !(keys[i] < bound)) candidates |= 1u << i;
  Best mine{-1e300, 0x7fffffff};
  while (candidates) {
    const int i = __ffs(candidates) - 1, id = first_of(i / 4) + i % 4;
    candidates &= candidates - 1;
    const float x = logits[id];
    Best next{x, id};
    if (!greedy) {
      const uint4 words = words_of(id);
      const double v = ((i % 4 == 0 ? words.x : i % 4 == 1 ? words.y : i % 4 == 2 ? words.z : words.w) + 0.5) * 0x1p-32;
      next.score = x / temperature;
      next.score += -log(-log(1 - v));
    }
    if (next.beats(mine)) mine = next;
  }
  if (__any_sync(0xffffffffu, mine.id < vocabulary)) mine = best_of_warp(mine);
  if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x > 0) return;
#pragma unroll
  for (int warp = 1; warp < 8; warp++)
    if (found[warp].beats(mine)) mine = found[warp];
  best[(i64)row * gridDim.x + blockIdx.x] = mine;
}

// ids and logprobs [rows]; -1 and 0 for an empty row, and where no logit is a number. A warp has a row.
extern "C" __global__ void __launch_bounds__(128)
sample_finish(const float *logits, Draws draws, const Row *known, const Best *best, int *ids, float *logprobs, int rows, int vocabulary,
              int parts) {
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  Best mine{-1e300, 0x7fffffff};
  if (draws.lengths[row] > 0)
    for (int i = lane; i < parts; i += 32)
      if (best[(i64)row * parts + i].beats(mine)) mine = best[(i64)row * parts + i];
  mine = best_of_warp(mine);
  if (lane > 0) return;
  const bool found = mine.id < vocabulary;
  ids[row] = found ? mine.id : -1;
  const float c = __fmul_rn(unit_of(draws.temperature[row]), LOG2E);
  float logprob = 0;
  if (found) {
    const float y = __fmul_rn(logits[(i64)row * vocabulary + mine.id], c);
    logprob = __fmul_rn(__fsub_rn(__fsub_rn(y, known[row].top), known[row].log2_sum), LN2);
  }
  logprobs[row] = logprob;
}
