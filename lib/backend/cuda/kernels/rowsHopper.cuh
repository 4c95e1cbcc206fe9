// Products of up to 64 rows by a weight matrix: y [rows, outputs] = x [rows, width] · w [outputs, width] transposed, with the bits of the
// product over many rows. How blocks bring, share and multiply their parts, and what turns queries and keys.
//
// A block has `rows` rows of x and `outputs` rows of the weights, or (halves = 2) as many of two parts that lie apart, such as gate and up; a
// thread has both sums then. A warpgroup multiplies 64 rows of x, of which those past these are whatever lies there. The copy engine
// brings both operands through a ring of slots, a step of some boxes of 64 columns at a time; past the width there are zeros.
//
// What a block takes in bounds products of many rows and few outputs, so the blocks of a cluster share it: `sharers` blocks have the same rows
// of x and other outputs, each bringing rows / sharers rows of a step, a multiple of 8, to all; `row_blocks` such groups, one or two, have the
// same outputs and other rows, and take turns in bringing the weights of a step. A slot is free when all blocks of the cluster have read it.
#pragma once
#include "formulas.cuh"
#include "overlap.cuh"
#include "wgmma.cuh"

constexpr int BOX = 64, GROUP = 8, GROUP_BYTES = GROUP * BOX * 2; // columns; rows of x that lie together

typedef Pack<bf16, 2> Pair; // of outputs that follow each other

// Slots of slot_bytes, filled and freed in turn. A full barrier takes an arrival and the copies' bytes, an empty one an arrival of each
// multiplying warp of the cluster. `full` and `empty`: the first of their barriers.
template <int stages_, int slot_bytes_> struct Ring {
  static constexpr int stages = stages_, slot_bytes = slot_bytes_;
  u32 shared, full, empty;

  __device__ __forceinline__ Ring(void *memory, u64 *barriers)
      : shared((shared_address(memory) + 1023) / 1024 * 1024), full(shared_address(barriers)), empty(full + 8 * stages) {}
  // By one thread, before the cluster_sync that publishes the barriers.
  __device__ __forceinline__ void init(int blocks) const {
    for (int stage = 0; stage < stages; stage++) barrier_init(full + 8 * stage, 1), barrier_init(empty + 8 * stage, 4 * blocks);
    barrier_init_fence();
  }
  // Until step `number` of all may be brought.
  __device__ __forceinline__ void wait_empty(int number) const {
    if (number >= stages) barrier_wait(empty + 8 * (number % stages), (number / stages - 1) % 2);
  }
};

template <int rows_, int row_blocks_, int sharers_, int outputs_, int boxes_, int halves_> struct Part {
  static constexpr int rows = rows_, row_blocks = row_blocks_, sharers = sharers_, outputs = outputs_, boxes = boxes_, halves = halves_;
  static constexpr int cluster = sharers * row_blocks, own_groups = rows / GROUP / sharers, summed = halves * outputs / 2;
  static_assert(own_groups * GROUP * sharers == rows, "blocks that share x bring a multiple of 8 rows each");
  // Of a slot: x [rows / GROUP, boxes, GROUP, BOX], w [halves, boxes, outputs, BOX].
  static constexpr int x_bytes = boxes * rows * BOX * 2, half_bytes = outputs * BOX * 2, bytes = x_bytes + halves * boxes * half_bytes;

  static __device__ __forceinline__ int steps(int width) { return (width / BOX + boxes - 1) / boxes; }
  // Where the block stands among those that share x, and which rows it has.
  static __device__ __forceinline__ int block_of_outputs() { return blockIdx.x / cluster * sharers + blockIdx.x % sharers; }
  static __device__ __forceinline__ int row_block() { return blockIdx.x % cluster / sharers; }
  // This thread's outputs are own_output() and the next, 8 on and so forth, its rows of x own_row(0) and own_row(1), if they are there.
  static __device__ __forceinline__ int own_output() { return threadIdx.x % 4 * 2; }
  static __device__ __forceinline__ int own_row(int e) { return row_block() * rows + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * e; }
  static __device__ __forceinline__ bool has_row(int e, int count) { return own_row(e) < min(count, (row_block() + 1) * rows); }

  // Brings the weights of a step, whose first outputs are `first`, into slot `stage`, and says how much comes in all.
  template <typename R> static __device__ __forceinline__ void bring_w(const R &ring, const TensorMap &map, const int (&first)[2], int step, int stage) {
    const u32 to = ring.shared + stage * R::slot_bytes + x_bytes, barrier = ring.full + 8 * stage;
    barrier_expect(barrier, bytes); // of x too, whoever brings it
    if (row_blocks > 1 && step % row_blocks != row_block()) return;
    constexpr u16 FIRST_OF_BOTH = 1 | 1 << sharers;
#pragma unroll
    for (int half = 0; half < halves; half++)
      if (row_blocks == 1)
        tma_load(to + half * boxes * half_bytes, map, 0, first[half], step * boxes, barrier);
      else
        tma_load_multicast(to + half * boxes * half_bytes, map, 0, first[half], step * boxes, barrier, FIRST_OF_BOTH << blockIdx.x % sharers);
  }
  template <typename R> static __device__ __forceinline__ void bring_x(const R &ring, const TensorMap &map, int step, int stage) {
#pragma unroll
    for (int own = 0; own < own_groups; own++) {
      const int group = blockIdx.x % sharers * own_groups + own, row = row_block() * rows + group * GROUP;
      const u32 to = ring.shared + stage * R::slot_bytes + group * boxes * GROUP_BYTES, barrier = ring.full + 8 * stage;
      if (sharers == 1)
        tma_load(to, map, 0, row, step * boxes, barrier);
      else
        tma_load_multicast(to, map, 0, row, step * boxes, barrier, (1 << sharers) - 1 << row_block() * sharers);
    }
  }

  // Adds up all steps by one warpgroup: of the first half, then of the second.
  template <typename R> static __device__ __forceinline__ void multiply(const R &ring, int steps, float (&sums)[summed]) {
    constexpr int stages = R::stages;
    const int lane = threadIdx.x % 32;
    const u64 x = descriptor(ring.shared, 16, boxes * GROUP_BYTES), w = descriptor(ring.shared + x_bytes);
    const auto parts = [&](int stage, int from, int to) { // `from` to `to` of 16 columns each
#pragma unroll
      for (int part = from; part < to; part++) {
        const int at = stage * R::slot_bytes + part % 4 * 32, box = part / 4;
        if constexpr (boxes == 1 && halves * outputs <= 256) // halves follow each other
          wgmma_shared<0, 0>(sums, moved(x, at), moved(w, at), 1);
        else
#pragma unroll
          for (int half = 0; half < halves; half++)
            wgmma_shared<0, 0>(*(float(*)[outputs / 2])(sums + half * outputs / 2), moved(x, at + box * GROUP_BYTES),
                               moved(w, at + (half * boxes + box) * half_bytes), 1);
      }
      wgmma_commit();
    };
    const auto release = [&](int stage) {
      if (lane < cluster) barrier_arrive_remote(ring.empty + 8 * stage, lane);
    };
    int stage = 0, before = 0;
    u32 parity = 0;
    bool there = false; // the slot's boxes
#pragma unroll
    for (int i = 0; i < summed; i++) sums[i] = 0;
    hold(sums);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      if (!there) barrier_wait(ring.full + 8 * stage, parity);
      wgmma_fence();
      parts(stage, 0, 2 * boxes);
      wgmma_wait<1>(); // for the step before
      if (step > 0) release(before);
      before = stage;
      if (++stage == stages) stage = 0, parity ^= 1;
      there = barrier_passed(ring.full + 8 * stage, parity);
      parts(before, 2 * boxes, 4 * boxes);
    }
    wgmma_wait<0>();
    hold(sums);
    release((steps - 1) % stages);
  }

  // finish(j, e, sums): the sums of own_output() + 8 j and the next, in each half, for own_row(e).
  template <typename Finish> static __device__ __forceinline__ void each(const float (&sums)[summed], int count, Finish finish) {
#pragma unroll
    for (int j = 0; j < outputs / 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float own[halves][2];
#pragma unroll
        for (int half = 0; half < halves; half++)
#pragma unroll
          for (int i = 0; i < 2; i++) own[half][i] = sums[half * outputs / 2 + 4 * j + 2 * e + i];
        if (has_row(e, count)) finish(j, e, own);
      }
  }
};

__device__ __forceinline__ Pair gated_pair(const float (&sums)[2][2]) {
  Pair out;
#pragma unroll
  for (int i = 0; i < 2; i++) out.at[i] = from_float<bf16>(gated(rounded(sums[0][i]), rounded(sums[1][i])));
  return out;
}

// Where queries, keys and values go: queries and keys turned by the angles of positions [rows] in tables of `known` rows (NaN outside), the
// queries into y [rows, (heads + 2 kvHeads) head_dim], keys and values into rows `at` of the cache [cacheRows, 2 kvHeads head_dim], nowhere
// for -1.
struct Places {
  const bf16 *bias; // or null
  const int *positions;
  const float *cosines, *sines;
  int known;
  const int *at;
  bf16 *y, *cache;
  int cacheRows, heads, kvHeads;
};

// The rotation of a block's pairs, which are of one head; there are head_dim / 2 / outputs, rounded up, blocks of outputs a head.
template <typename P, int head_dim> struct Turned {
  static constexpr int HALF = head_dim / 2, BLOCKS = (HALF + P::outputs - 1) / P::outputs, MANY = P::outputs / 8;
  const Places &places;
  int head, pair, place[2];
  Pair added[MANY][2];
  float2 cosine[MANY][2], sine[MANY][2];

  __device__ __forceinline__ Turned(const Places &places) : places(places) {
    head = P::block_of_outputs() / BLOCKS;
    pair = P::block_of_outputs() % BLOCKS * P::outputs;
  }
  __device__ __forceinline__ int first() const { return head * head_dim + pair; }
  __device__ __forceinline__ bool has(int output) const { return head < places.heads + 2 * places.kvHeads && pair + output < HALF; }

  // Loads what finish needs.
  __device__ __forceinline__ void begin(int rows) {
    int position[2];
    bool there[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      position[e] = P::has_row(e, rows) ? places.positions[P::own_row(e)] : 0;
      there[e] = position[e] >= 0 && position[e] < places.known;
      place[e] = P::has_row(e, rows) ? places.at[P::own_row(e)] : -1;
      check_index(place[e], -1, places.cacheRows);
    }
#pragma unroll
    for (int j = 0; j < MANY; j++) {
      const int output = P::own_output() + 8 * j;
      if (!has(output)) continue;
#pragma unroll
      for (int half = 0; half < 2; half++)
        if (places.bias) added[j][half] = *(const Pair *)(places.bias + first() + output + half * HALF);
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const i64 angle = (i64)(there[e] ? position[e] : 0) * HALF + pair + output;
        cosine[j][e] = *(const float2 *)(places.cosines + angle);
        sine[j][e] = *(const float2 *)(places.sines + angle);
        if (!there[e]) cosine[j][e].x = cosine[j][e].y = __int_as_float(0x7fffffff);
      }
    }
  }
  __device__ __forceinline__ void finish(int j, int e, const float (&sums)[2][2]) const {
    const int output = P::own_output() + 8 * j;
    const auto &[bias, positions, cosines, sines, known, at, y, cache, cacheRows, heads, kvHeads] = places;
    if (!has(output) || head >= heads && place[e] < 0) return;
    Pair low, high;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float p = sums[0][i], q = sums[1][i];
      if (bias) p = __fadd_rn(p, to_float(added[j][0].at[i])), q = __fadd_rn(q, to_float(added[j][1].at[i]));
      p = rounded(p), q = rounded(q);
      if (head < heads + kvHeads) rotate(p, q, i ? cosine[j][e].y : cosine[j][e].x, i ? sine[j][e].y : sine[j][e].x);
      low.at[i] = from_float<bf16>(p), high.at[i] = from_float<bf16>(q);
    }
    bf16 *to = head < heads ? y + (i64)P::own_row(e) * (heads + 2 * kvHeads) * head_dim + first() + output
                            : cache + (i64)place[e] * 2 * kvHeads * head_dim + (first() + output - heads * head_dim);
    *(Pair *)to = low;
    *(Pair *)(to + HALF) = high;
  }
};
