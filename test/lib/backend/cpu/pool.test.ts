import test from "ava";
import { BufferPool } from "../../../../lib/backend/cpu/pool.js";

test("a freed buffer serves the next request of about its size, of any dtype", (t) => {
  const pool = new BufferPool();
  const first = pool.allocate("f32", 1000);
  pool.free(first);
  const second = pool.allocate("bf16", 1990);
  t.is(second.buffer, first.buffer);
  t.is(second.length, 1990);
  t.not(pool.allocate("f32", 1000).buffer, first.buffer);
});

test("rounding up wastes at most a quarter, and a small buffer is at least 64 bytes", (t) => {
  const pool = new BufferPool();
  for (let size = 1; size < 5000; size += 7) {
    const before = pool.memory().bytes;
    const array = pool.allocate("f32", size);
    const bytes = pool.memory().bytes - before;
    t.true(bytes >= 4 * size && bytes <= Math.max(64, 1.25 * 4 * size), `${size}: ${bytes}`);
    t.is(array.length, size);
    pool.free(array);
  }
  t.is(pool.memory().bytes, 0);
  t.is(pool.memory().buffers, 0);
});

test("the same work again allocates nothing new", (t) => {
  const pool = new BufferPool();
  const work = () => {
    const arrays = [10, 1000, 100, 5000].map((size) => pool.allocate("f32", size));
    for (const array of arrays) pool.free(array);
    return arrays.map(({ buffer }) => buffer);
  };
  t.deepEqual(new Set(work()), new Set(work()));
});
