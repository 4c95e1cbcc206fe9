// Sequences that decode, one in each slot, with their state on the device: what a step needs to know, and what it leaves for the next.
#include "common.cuh"
#include "overlap.cuh"

// As in attentionTile.cuh.
struct alignas(16) Item {
  int query, first, flat, flats, keys, chunk, slot, reserved;
};

constexpr int CHUNK = 512;

// The work of a step's attention: items [chunks, slots], so that whole chunks come before the last ones, then the slots' merges. lengths
// count the new token; 0 is an empty slot. Thread = chunk * slots + slot.
extern "C" __global__ void __launch_bounds__(256)
plan_slots(const int *lengths, Item *items, int slots, int chunks, int group, int pages) {
  wait_for_kernel_before();
  const int i = blockIdx.x * 256 + threadIdx.x, slot = i % slots, chunk = i / slots;
  if (chunk >= chunks) return;
  const int position = lengths[slot] - 1, count = position < 0 ? 0 : position / CHUNK + 1;
  Item item = {chunk < count ? slot : -1, position, 0, group, slot * pages, chunk, count > 1 ? slot * chunks + chunk : -1, 0};
  items[i] = item;
  if (chunk > 0) return;
  item.query = count > 1 ? slot : -1;
  item.chunk = count;
  items[slots * chunks + slot] = item;
}

// After a step: each slot takes the token that it drew (its next input, at the next position), or ends, with length 0, token and cache
// row -1. table [slots, pages]; stops [slots, STOPS], -1 for none.
constexpr int STOPS = 8;
extern "C" __global__ void __launch_bounds__(256)
advance_slots(const int *drawn, const int *table, const int *stops, int *tokens, int *positions, int *rows, int *lengths, int *remaining,
              int slots, int pages, int pageSize) {
  wait_for_kernel_before();
  const int slot = blockIdx.x * 256 + threadIdx.x;
  if (slot >= slots || lengths[slot] == 0) return;
  const int token = drawn[slot], left = remaining[slot] - 1, position = lengths[slot];
  bool ends = left <= 0 || token < 0;
#pragma unroll
  for (int i = 0; i < STOPS; i++) ends |= token == stops[slot * STOPS + i];
  remaining[slot] = left;
  tokens[slot] = ends ? -1 : token;
  positions[slot] = ends ? 0 : position;
  lengths[slot] = ends ? 0 : position + 1;
  rows[slot] = ends ? -1 : table[slot * pages + position / pageSize] * pageSize + position % pageSize;
}
