// Draws a token for each row of logits [rows, vocabulary] (f32), with its log-probability. What a row gets depends on the row alone.
//
// The log-probability has the arithmetic of linearLogprobHopper.cu, so the training forward gives the same bits. The draw is that of
// lib/random.ts: Gumbel-max with Philox noise named by (step, task, sample and turn, position) and the token's id, compared in f64.
#include "common.cuh"
#include "overlap.cuh"
#include "sampleCut.cuh"

#ifndef PART // columns of a block that draws: 4096, or 1024 for few rows
#define PART 4096
#endif

constexpr int COLUMNS = 256; // of a chunk

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

// Whether all blocks of a row, gridDim.x of them, have come here, each with all of its threads; then what they wrote before is there, for
// reads past the first cache (__ldcg).
__device__ u32 arrived[65536]; // of each row; 0 again when the kernel ends
__device__ __forceinline__ bool is_last_of_row(int row) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&arrived[row], 1u) == gridDim.x - 1;
    if (last) arrived[row] = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// Merges the chunks of a row: eight threads add every eighth.
constexpr int MERGING = 128;
__device__ __forceinline__ void merge_chunks(const Draws &draws, const float *parts, Row *known, int chunks) {
  __shared__ float sums[32];
  __shared__ float2 terms[1024];
  const int row = blockIdx.y;
  float top = -INFINITE, most = -INFINITE;
  for (int i = threadIdx.x; i < chunks; i += MERGING) top = fmaxf(top, __ldcg(parts + 3 * i)), most = fmaxf(most, __ldcg(parts + 3 * i + 2));
  top = block_max<MERGING>(top, sums);
  __syncthreads();
  most = block_max<MERGING>(most, sums);
  float s = 0;
  for (int from = 0; from < chunks; from += 1024) {
    const int count = chunks - from < 1024 ? chunks - from : 1024;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += MERGING) {
      const float *part = parts + 3 * (from + i);
      terms[i] = make_float2(__ldcg(part + 1), exp2_fast(__fsub_rn(__ldcg(part), top)));
    }
    __syncthreads();
    if (threadIdx.x < 8)
#pragma unroll 8
      for (int i = threadIdx.x; i < count; i += 8) s = __fmaf_rn(terms[i].x, terms[i].y, s);
  }
  if (threadIdx.x < 8) sums[threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.x > 0) return;
  float total = sums[0];
#pragma unroll
  for (int i = 1; i < 8; i++) total = __fadd_rn(total, sums[i]);
  known[row] = {top, log2f(total), most, -INFINITE, is_cut(draws, row), BINS, 0, BINS, 0, 0, 0};
}

// Maximum and sum of each chunk: parts [rows, chunks, 3] = m, s, largest logit; merged, they are what is known of a row. Four lanes have
// a chunk. Clears the histograms [rows, ROUNDS, BINS] of counts and masses. Grid (⌈chunks / 32⌉, rows).
extern "C" __global__ void __launch_bounds__(MERGING)
sample_chunks(const float *logits, Draws draws, float *parts, Row *known, u64 *masses, u32 *counts, int vocabulary, int chunks) {
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.y, chunk = blockIdx.x * (MERGING / 4) + threadIdx.x / 4, t = threadIdx.x % 4;
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
  if (is_cut(draws, row))
    for (int i = blockIdx.x * MERGING + threadIdx.x; i < ROUNDS * BINS; i += gridDim.x * MERGING)
      masses[(i64)row * ROUNDS * BINS + i] = counts[(i64)row * ROUNDS * BINS + i] = 0;
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
  if (is_last_of_row(row)) merge_chunks(draws, parts + (i64)row * chunks * 3, known, chunks);
}

// Adds a part of `part` columns to the histogram of a round; pieces are the chunks'. Then makes the round's cut. A
// mass is 2^32 high + low. Grid (parts, rows).
extern "C" __global__ void __launch_bounds__(COUNTING, 6)
sample_count(const float *logits, Draws draws, const float *pieces, Row *known, u64 *masses, u32 *counts, int vocabulary, int chunks,
             int part, int round) {
  __shared__ u32 high[BINS], low[BINS], count[BINS];
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.y;
  if (draws.lengths[row] == 0 || !known[row].cuts) return;
  const Row it = known[row];
  const int k = draws.topK[row], inside = round == 1 ? it.kBin : it.pBin;
  const bool counted = round < 2 && k > 0 && k < vocabulary, weighed = draws.topP[row] < 1;
  // Where there is nothing to count, one block makes the cut, which changes nothing that the others return by.
  const bool counts_any = (counted || weighed) && (round == 0 || inside < BINS);
  if (!counts_any && blockIdx.x > 0) return;
  if (!counts_any) {
    make_cut(draws, known, masses, counts, vocabulary, round);
    return;
  }
  for (int i = threadIdx.x; i < BINS; i += COUNTING) high[i] = low[i] = count[i] = 0;
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
  for (int first = from; first < end; first += 4 * COUNTING) {
    const Pack<float> x = next;
    next = load(first + 4 * COUNTING);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float depth = depth_of(x.at[j], it.most, unit);
      const Place at = place_of(depth);
      if ((round > 0 && at.bin != inside) || (round == 2 && !kept(at, it.kBin, it.kPart))) continue;
      const int bin = round > 0 ? at.part : at.bin;
      if (weighed) {
        Mass mass = mass_of(depth);
        if (mass.low) mass.high += atomicAdd(&low[bin], mass.low) + mass.low < mass.low; // what overflows is carried
        if (mass.high) atomicAdd(&high[bin], mass.high);
      }
      if (counted && depth == depth) atomicAdd(&count[bin], 1u);
    }
  }
  __syncthreads();
  const i64 to = ((i64)row * ROUNDS + round) * BINS;
  for (int i = threadIdx.x; i < BINS; i += COUNTING) {
    const u64 mass = ((u64)high[i] << 32) + low[i];
    if (mass) atomicAdd((unsigned long long *)&masses[to + i], (unsigned long long)mass);
    if (count[i]) atomicAdd(&counts[to + i], count[i]);
  }
  if (is_last_of_row(row)) make_cut(draws, known, masses, counts, vocabulary, round);
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

// Draws: ids and logprobs [rows]; -1 and 0 for an empty row, and where no logit is a number. A block finds the best of PART columns, for
// best [rows, parts], of which the last one takes the best. pieces are the chunks'. Grid (parts, rows).
//
// A score in f64 takes two logarithms, so only tokens that may win get one. A token's key in f32, (logit - largest) / temperature -
// log(v), in units of log2, is not below its score beyond the largest logit's, as -log(1 - v) >= v; and above it by SLACK · v at most.
// So the winner's key is at least the largest key - SLACK · v; and at least LEAST_NOISE, since the largest logit is kept and scores
// that. Rounding is far below MARGIN where a token may win: logits further than 26 temperatures from the largest cannot.
constexpr int FOURS = PART / 1024;
constexpr float SLACK = 4.6f;         // log2(-log(1 - v) / v) / v is 4.52 for the largest v, 1 - 2^-33, and less for others
constexpr float LEAST_NOISE = -4.55f; // -log2(-log(1 - v)) is -4.52 for that
constexpr float MARGIN = 0.01f;
extern "C" __global__ void __launch_bounds__(256)
sample_draw(const float *logits, Draws draws, const float *pieces, const Row *known, Best *best, int *ids, float *logprobs, int vocabulary,
            int chunks) {
  __shared__ Best found[8];
  __shared__ float bounds[32];
  __shared__ uint2 name;
  wait_for_kernel_before();
  let_kernel_after_begin();
  const int row = blockIdx.y;
  const int position = draws.lengths[row];
  if (position == 0) {
    if (blockIdx.x == 0 && threadIdx.x == 0) ids[row] = -1, logprobs[row] = 0;
    return;
  }
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
  best += (i64)row * gridDim.x;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 1; warp < 8; warp++)
      if (found[warp].beats(mine)) mine = found[warp];
    best[blockIdx.x] = mine;
  }
  if (!is_last_of_row(row) || threadIdx.x >= 32) return;
  mine = {-1e300, 0x7fffffff};
  for (int i = threadIdx.x; i < gridDim.x; i += 32) {
    const Best next{__ldcg(&best[i].score), __ldcg(&best[i].id)};
    if (next.beats(mine)) mine = next;
  }
  mine = best_of_warp(mine);
  if (threadIdx.x > 0) return;
  const bool drawn = mine.id < vocabulary;
  ids[row] = drawn ? mine.id : -1;
  float logprob = 0;
  if (drawn) {
    const float y = __fmul_rn(logits[mine.id], c);
    logprob = __fmul_rn(__fsub_rn(__fsub_rn(y, known[row].top), known[row].log2_sum), LN2);
  }
  logprobs[row] = logprob;
}
