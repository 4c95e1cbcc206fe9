// What the kernels of sample.cu ask and know of a row, and where the filters cut.
//
// Filters. A logit falls into one of BINS bins by its distance from the largest, in units of the temperature, and into one of BINS
// parts of that bin; logits of one part (2^-16 apart at most) are ties. Three rounds find where to cut: the first counts bins; the
// second the parts of the bin in which the top-k-th logit lies; the third the parts of the bin in which top-p's mass is reached. Masses
// are whole numbers, 2^32 for the largest logit, so that the order in which they are added does not matter. The last cut gives the
// smallest logit that is kept, which is all that the draw asks.
#pragma once
#include "instructions.cuh"

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
#define INFINITE __int_as_float(0x7f800000)

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

constexpr int ROUNDS = 3, BINS = 2048;
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

// Where a logit falls; monotone: a smaller logit never falls before a larger one. Beside 2^23 the last bit of a float counts ones, so
// that adding it is a conversion, at the speed of an addition.
__device__ __forceinline__ Place place_of(float depth) {
  float at = __fmul_rn(depth, BINS_PER_UNIT);
  if (!(at < BINS - 1)) return {BINS - 1, 0};
  at = fmaxf(at, 0);
  const float bin = __fadd_rz(at, 0x1p23f), part = __fadd_rz(__fmul_rn(at - (bin - 0x1p23f), BINS), 0x1p23f);
  return {__float_as_int(bin) & 0x7fffff, __float_as_int(part) & 0x7fffff};
}

__device__ __forceinline__ bool kept(Place at, int bin, int part) { return at.bin < bin || (at.bin == bin && at.part <= part); }

// The mass 2^32 high + low: 2^32 at depth 0, rounded down, none of what is not a number.
struct Mass {
  u32 high, low;
};

__device__ __forceinline__ Mass mass_of(float depth) {
  const float mass = exp2_fast(__fmul_rn(-depth, LOG2E)) * 0x1p32f;
  if (mass >= 0x1p32f) return {1, 0};
  return {0, (u32)mass};
}

// Whether filters may cut anything off.
__device__ __forceinline__ bool is_cut(const Draws &draws, int row) {
  return draws.temperature[row] > 0 && (draws.topK[row] > 0 || draws.topP[row] < 1 || draws.minP[row] > 0);
}

constexpr int COUNTING = 256, OWN = BINS / COUNTING; // threads, and neighbouring bins of each

// The sum over all bins; `before` is that of the bins before a thread's.
__device__ __forceinline__ u64 scan_bins(const u64 (&values)[OWN], u64 *scan, u64 &before) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u64 own = 0;
#pragma unroll
  for (int i = 0; i < OWN; i++) own += values[i];
  u64 sum = own;
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
  for (int i = 0; i < COUNTING / 32; i++) {
    if (i == warp) sum += total;
    total += scan[i];
  }
  before = sum - own;
  return total;
}

// The smallest number that passes, where all that are larger pass too; NaN if there is none. For all threads of a block.
template <typename Passes> __device__ __forceinline__ float lowest_passing(Passes passes) {
  // Floats in order: place 0 is a negative NaN, the last one a positive NaN.
  const auto number = [](u32 place) { return __uint_as_float(place >> 31 ? place ^ 0x80000000u : ~place); };
  const auto fails = [&](u32 place) {
    const float x = number(place);
    return x == x ? !passes(x) : place >> 31 == 0;
  };
  u32 failed = 0; // the largest place known to fail
#pragma unroll
  for (int shift = 24; shift >= 0; shift -= 8)
    failed += (u32)__syncthreads_count(threadIdx.x < 255 && fails(failed + ((threadIdx.x + 1) << shift))) << shift;
  return number(failed + 1);
}

// After a round: finds the bin, or the part, in which a target is reached. By one block of COUNTING threads.
__device__ __forceinline__ void make_cut(const Draws &draws, Row *known, const u64 *masses, const u32 *counts, int vocabulary, int round) {
  __shared__ u64 scan[COUNTING / 32], passed;
  __shared__ int reached;
  const int row = blockIdx.y, k = draws.topK[row], first = OWN * threadIdx.x;
  const float p = draws.topP[row];
  Row it = known[row];
  const bool byK = k > 0 && k < vocabulary, byP = p < 1;
  const auto counted = [&](int of, int i) { return (u64)__ldcg(counts + ((i64)row * ROUNDS + of) * BINS + first + i); };
  const auto weighed = [&](int of, int i) { return (u64)__ldcg(masses + ((i64)row * ROUNDS + of) * BINS + first + i); };
  u64 values[OWN], before;
  // The first of the bins whose sum, from `start` on, reaches the target; it.before is the sum before it.
  const auto find = [&](u64 target, u64 start) {
    __syncthreads();
    if (threadIdx.x == 0) reached = BINS - 1, passed = start;
    scan_bins(values, scan, before);
    u64 sum = start + before;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      if (sum < target && sum + values[i] >= target) reached = first + i, passed = sum;
      sum += values[i];
    }
    __syncthreads();
    it.before = passed;
    return reached;
  };
  if (round == 0 && byK) {
#pragma unroll
    for (int i = 0; i < OWN; i++) values[i] = counted(0, i);
    it.kBin = find(k, 0);
  }
  if (round == 1) {
    if (byK) {
#pragma unroll
      for (int i = 0; i < OWN; i++) values[i] = counted(1, i);
      it.kPart = find(k, it.before);
    }
    if (byP) {
      // Of what top-k kept: all bins before kBin, and kPart's share of that.
      u64 share = 0;
      if (byK) {
#pragma unroll
        for (int i = 0; i < OWN; i++) values[i] = first + i <= it.kPart ? weighed(1, i) : 0;
        share = scan_bins(values, scan, before);
      }
#pragma unroll
      for (int i = 0; i < OWN; i++) values[i] = first + i < it.kBin ? weighed(0, i) : first + i == it.kBin ? share : 0;
      it.target = (u64)((double)scan_bins(values, scan, before) * p);
      if (it.target == 0) it.target = 1;
      it.pBin = find(it.target, 0);
    }
  }
  if (round == 2) {
    if (byP) {
#pragma unroll
      for (int i = 0; i < OWN; i++) values[i] = weighed(2, i);
      it.pPart = find(it.target, it.before);
    }
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
