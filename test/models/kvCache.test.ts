import test from "ava";
import fc from "fast-check";
import { createCpu } from "../../lib/index.js";
import { type CachedSequence, KvCache } from "../../models/index.js";
import { tinyConfig } from "./tiny.js";

const cacheOf = (pages: number, pageSize: number, backend = createCpu()) =>
  new KvCache(tinyConfig, { backend, pages, pageSize });

/** Rows that the tokens of a sequence have in the cache. */
const rowsOf = ({ pages, length }: CachedSequence, pageSize: number) =>
  Array.from({ length }, (_, i) => pages[Math.floor(i / pageSize)] * pageSize + (i % pageSize));

test("a sequence takes a page when the one before is full, and close gives all of them back", (t) => {
  const cache = cacheOf(4, 2);
  const sequence = cache.open();
  const free: number[] = [];
  for (let i = 0; i < 5; i++) {
    cache.extend([sequence], [1]);
    free.push(cache.freePages);
  }
  t.deepEqual(free, [3, 3, 2, 2, 1]);
  t.deepEqual([cache.pagesNeeded(sequence, 1), cache.pagesNeeded(sequence, 2)], [0, 1]);
  cache.close(sequence);
  t.is(cache.freePages, 4);
  t.deepEqual([...cache.sequences], []);
});

test("the rows that extend names are the new tokens', in order of the sequences", async (t) => {
  const cache = cacheOf(8, 4);
  const [a, b] = [cache.open(), cache.open()];
  cache.extend([a, b], [3, 5]);
  const step = cache.extend([b, a], [2, 3]);
  t.deepEqual([...(await step.rows.data())], [...rowsOf(b, 4).slice(5), ...rowsOf(a, 4).slice(3)]);
  t.deepEqual([...step.context.offsets], [0, 2, 5]);
  t.deepEqual([...step.context.lengths], [7, 6]);
  t.deepEqual(step.context.pages, [b.pages, a.pages]);
});

test("an evicted sequence stays open, without pages", (t) => {
  const cache = cacheOf(4, 4);
  const sequence = cache.open();
  cache.extend([sequence], [6]);
  cache.evict(sequence);
  t.deepEqual([sequence.length, sequence.pages, cache.freePages], [0, [], 4]);
  t.deepEqual([...cache.sequences], [sequence]);
});

test("too few pages: extend says how many there are and changes nothing", (t) => {
  const cache = cacheOf(3, 2);
  const [a, b] = [cache.open(), cache.open()];
  t.throws(() => cache.extend([a, b], [4, 3]), { message: /4 pages wanted and 3 of 3 free/ });
  t.deepEqual([a.length, b.length, cache.freePages], [0, 0, 3]);
});

test("whatever sequences do, no page is lost and no two tokens share a row", (t) => {
  const action = fc.record({
    kind: fc.constantFrom("open", "extend", "extend", "extend", "evict", "close"),
    which: fc.nat(9),
    count: fc.integer({ min: 1, max: 9 }),
  });
  const property = fc.property(fc.array(action, { maxLength: 40 }), fc.integer({ min: 1, max: 5 }), (actions, size) => {
    const pages = 6;
    const cache = cacheOf(pages, size);
    const open: CachedSequence[] = [];
    for (const { kind, which, count } of actions) {
      const sequence = open[which % open.length];
      if (kind === "open" || !sequence) open.push(cache.open());
      else if (kind === "evict") cache.evict(sequence);
      else if (kind === "close") cache.close(open.splice(open.indexOf(sequence), 1)[0]);
      else if (cache.pagesNeeded(sequence, count) <= cache.freePages) cache.extend([sequence], [count]);
      const held = open.flatMap((sequence) => sequence.pages);
      t.is(new Set(held).size + cache.freePages, pages);
      t.is(new Set(held).size, held.length);
      const rows = open.flatMap((sequence) => rowsOf(sequence, size));
      t.is(new Set(rows).size, rows.length);
      t.deepEqual([...cache.sequences], open);
    }
    cache.dispose();
  });
  fc.assert(property, { numRuns: 50 });
});

test("the pool is allocated once and freed by dispose", (t) => {
  const backend = createCpu();
  const cache = cacheOf(4, 4, backend);
  t.is(backend.memory().buffers, tinyConfig.layers);
  t.true(backend.memory().bytes >= tinyConfig.layers * 4 * 4 * 2 * tinyConfig.kvHeads * tinyConfig.headDim * 4);
  cache.dispose();
  t.is(backend.memory().bytes, 0);
});
