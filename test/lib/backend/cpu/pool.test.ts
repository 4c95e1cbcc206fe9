import test from "ava";
import { BufferPool } from "../../../../lib/backend/cpu/pool.js";
import type { DType, TypedArray } from "../../../../lib/dtype.js";
import { randomStream } from "../../../../lib/index.js";

const MiB = 2 ** 20;

test("freed memory serves the next request that fits, of any dtype", (t) => {
  const pool = new BufferPool();
  const first = pool.allocate("f32", 1000);
  pool.allocate("f32", 1);
  pool.free(first);
  const second = pool.allocate("bf16", 1990);
  t.is(second.buffer, first.buffer);
  t.is(second.byteOffset, first.byteOffset);
  t.is(second.length, 1990);
  t.not(pool.allocate("f32", 1000).byteOffset, first.byteOffset);
});

test("an array takes whole cache lines and no more", (t) => {
  const pool = new BufferPool();
  for (let size = 0; size < 5000; size += 7) {
    const array = pool.allocate("f32", size);
    t.is(pool.memory().bytes, Math.max(64, Math.ceil(size / 16) * 64));
    t.is(array.length, size);
    pool.free(array);
  }
  t.is(pool.memory().bytes, 0);
  t.is(pool.memory().buffers, 0);
});

test("arrays in use never overlap, and all that was freed joins into one piece again", (t) => {
  const pool = new BufferPool();
  const random = randomStream(1, 2);
  const dtypes: readonly DType[] = ["f32", "f64", "u8"];
  const live: { array: TypedArray; mark: number }[] = [];
  const check = ({ array, mark }: (typeof live)[number]) => array.every((value) => value === mark);
  for (let i = 0; i < 3000; i++) {
    if (random.int(2) === 0 || live.length === 0) {
      const array = pool.allocate(dtypes[random.int(3)], 1 + random.int(3000));
      live.push({ array: array.fill(i % 251), mark: i % 251 });
    } else {
      const [gone] = live.splice(random.int(live.length), 1);
      t.true(check(gone));
      pool.free(gone.array);
    }
  }
  t.true(live.every(check));
  for (const { array } of live) pool.free(array);
  t.is(pool.allocate("u8", 32 * MiB).byteOffset, 0);
});

test("steps whose sizes change from one to the next do not take more and more", (t) => {
  const pool = new BufferPool();
  const random = randomStream(3, 4);
  const buffers = new Set<ArrayBufferLike>();
  let highest = 0;
  const step = () => {
    const arrays = Array.from({ length: 100 }, () => pool.allocate("f32", 1 + random.int(20_000)));
    for (const { buffer, byteOffset, byteLength } of arrays) {
      buffers.add(buffer);
      highest = Math.max(highest, byteOffset + byteLength);
    }
    for (const array of arrays) pool.free(array);
  };
  for (let i = 0; i < 1000; i++) step();
  t.is(buffers.size, 1);
  t.true(highest < 100 * 80_000, `${highest} bytes touched`);
});

test("an array larger than a slab has one of its own, and is used again", (t) => {
  const pool = new BufferPool();
  const large = pool.allocate("f32", 10 * MiB);
  t.is(large.buffer.byteLength, 64 * MiB);
  pool.free(large);
  t.is(pool.allocate("f32", 10 * MiB).buffer, large.buffer);
});

test("empty slabs beyond 512 MiB are let go, and all of them by trim", (t) => {
  const pool = new BufferPool();
  const arrays = Array.from({ length: 20 }, () => pool.allocate("u8", 32 * MiB));
  const before = new Set(arrays.map(({ buffer }) => buffer));
  for (const array of arrays) pool.free(array);
  const again = Array.from({ length: 20 }, () => pool.allocate("u8", 32 * MiB));
  t.is(again.filter(({ buffer }) => before.has(buffer)).length, 16);
  for (const array of again) pool.free(array);
  pool.trim();
  t.false(again.some(({ buffer }) => buffer === pool.allocate("u8", 1).buffer));
});

test("an array freed twice, or not the pool's, is an error", (t) => {
  const pool = new BufferPool();
  const array = pool.allocate("f32", 10);
  pool.free(array);
  t.throws(() => pool.free(array), { message: /freed before/ });
  t.throws(() => pool.free(new Float32Array(10)), { message: /not the pool's/ });
});
