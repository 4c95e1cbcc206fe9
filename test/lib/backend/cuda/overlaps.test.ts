/* Which kernels may begin before the one before them has ended (overlaps.ts). */
import test from "ava";
import { type Overlap, Overlaps, type Range } from "../../../../lib/backend/cuda/overlaps.js";

const range = (address: number, bytes = 100): Range => ({ address, bytes });
const [weight, cache, x, y, z] = [1000, 2000, 3000, 4000, 5000].map((address) => range(address));
const product = (from: Range, to: Range): Overlap => ({ writes: [to], ahead: [from] });
const leads: Overlap = { writes: [x], ahead: [] };

/** What each of several kernels may do, one after another. */
const early = (...kernels: (Overlap | undefined)[]) => {
  const overlaps = new Overlaps();
  return kernels.map((kernel) => overlaps.next(kernel));
};

test("a kernel that waits first begins early behind anything, one that says nothing behind nothing", (t) => {
  t.deepEqual(early("waits", undefined, "waits", product(weight, y), "waits"), [true, false, true, false, true]);
});

test("a kernel reads weights ahead only behind kernels that say what they write, and do not write them", (t) => {
  t.deepEqual(early(undefined, product(weight, y), product(weight, z)), [false, false, true]);
  t.deepEqual(early("waits", product(weight, y)), [true, false]);
  t.deepEqual(early(undefined, leads, product(weight, y)), [false, true, true]);
});

test("a result of one of the kernels before, or a part of it, is not read ahead, however far back it was written", (t) => {
  t.deepEqual(early(undefined, product(weight, y), product(y, z)), [false, false, false]);
  t.deepEqual(early(undefined, product(weight, y), product(range(4050, 10), z)), [false, false, false]);
  t.deepEqual(early(undefined, leads, product(weight, y), product(weight, z), product(y, cache), product(x, z)), [
    ...[false, true, true, true],
    ...[false, false],
  ]);
  // What touches it at its ends is something else.
  t.deepEqual(early(undefined, product(weight, y), product(range(3900), z), product(range(4100), z)), [
    ...[false, false],
    ...[true, true],
  ]);
});

test("what else is enqueued ends the row: weights may have been written by it", (t) => {
  const overlaps = new Overlaps();
  t.false(overlaps.next(product(weight, y)));
  t.true(overlaps.next(product(weight, z)));
  overlaps.other();
  t.false(overlaps.next(product(weight, y)));
  t.true(overlaps.next(product(weight, z)));
});
