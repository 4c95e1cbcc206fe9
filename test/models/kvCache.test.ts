import test from "ava";
import fc from "fast-check";
import { createCpu, setRows, type Tensor, tensor } from "../../lib/index.js";
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

/** What a test wrote for each token of a sequence. */
type History = number[];

const width = 2 * tinyConfig.kvHeads * tinyConfig.headDim;

/** Extends a sequence by tokens that it writes as rows of the value that stands for each. */
function write(cache: KvCache, sequence: CachedSequence, values: readonly number[]): void {
  using rows = cache.extend([sequence], [values.length]).rows;
  writeRows(cache, rows, values);
}

function writeRows({ layers }: KvCache, rows: Tensor, values: readonly number[]): void {
  const content = values.flatMap((value) => Array(width).fill(value));
  for (const layer of layers) {
    using written = tensor(content, { backend: layer.backend, shape: [values.length, width] });
    setRows(layer, rows, written);
  }
}

/** The same as a device does it that has pages for more: it writes, and says so later. */
function writeReserved(cache: KvCache, sequence: CachedSequence, values: readonly number[], room: number): void {
  const { length } = sequence;
  cache.reserve([sequence], [length + room]);
  const places = rowsOf({ ...sequence, length: length + values.length }, cache.options.pageSize).slice(length);
  using rows = tensor(places, { backend: cache.options.backend, dtype: "i32" });
  writeRows(cache, rows, values);
  for (const end of values.keys()) cache.advance(sequence, length + end + 1);
  cache.trim(sequence);
}

/** The values of a sequence's tokens as every layer has them. */
async function read(cache: KvCache, sequence: CachedSequence): Promise<number[][]> {
  const probe = cache.extend([], []);
  probe.rows.dispose();
  const rows = rowsOf(sequence, cache.options.pageSize);
  return Promise.all(
    probe.layers.map(async (layer) => {
      const values = await layer.data();
      return rows.map((row) => values[row * width]);
    }),
  );
}

test("whatever sequences do, every token stays what it was, and no page is lost or held in vain", async (t) => {
  const action = fc.record({
    kind: fc.constantFrom("open", "extend", "extend", "reserve", "fork", "fork", "evict", "close"),
    which: fc.nat(9),
    count: fc.integer({ min: 1, max: 9 }),
  });
  const property = fc.asyncProperty(
    fc.array(action, { maxLength: 40 }),
    fc.integer({ min: 1, max: 5 }),
    async (actions, size) => {
      const pages = 7;
      const cache = cacheOf(pages, size);
      const open = new Map<CachedSequence, History>();
      let value = 0;
      for (const { kind, which, count } of actions) {
        const sequence = [...open.keys()][which % open.size];
        const others = [...open.keys()].map((other) => [other, cache.pagesNeeded(other, 3)] as const);
        if (kind === "open" || !sequence) open.set(cache.open(), []);
        else if (kind === "fork") {
          const length = sequence.length > 0 && which > 4 ? count % sequence.length : sequence.length;
          open.set(cache.fork(sequence, length), open.get(sequence)!.slice(0, length));
        } else if (kind === "evict") {
          cache.evict(sequence);
          open.set(sequence, []);
        } else if (kind === "close") {
          cache.close(sequence);
          open.delete(sequence);
        } else if (cache.pagesNeeded(sequence, count) <= cache.freePages) {
          const before = cache.freePages;
          const needed = cache.pagesNeeded(sequence, count);
          const values = Array.from({ length: count }, () => ++value);
          if (kind === "reserve") values.length = which % count;
          if (kind === "reserve") writeReserved(cache, sequence, values, count);
          else write(cache, sequence, values);
          if (kind === "extend") t.is(cache.freePages, before - needed);
          open.get(sequence)!.push(...values);
        }
        // Room that was promised to one sequence is enough whatever others do, its forks among them.
        for (const [other, most] of others) {
          if (other !== sequence || kind === "fork") t.true(cache.pagesNeeded(other, 3) <= most);
        }
        t.is(cache.pagesHeld(open.keys()) + cache.freePages, pages);
        t.true([...cache.sequences].length === open.size && [...open.keys()].every((one) => cache.isOpen(one)));
      }
      for (const [sequence, history] of open) {
        for (const values of await read(cache, sequence)) t.deepEqual(values, history);
      }
      for (const sequence of open.keys()) cache.close(sequence);
      t.is(cache.freePages, pages);
      cache.dispose();
    },
  );
  await fc.assert(property, { numRuns: 150 });
});

test("a fork shares the pages there are, and takes one of its own when it writes to a partly filled one", async (t) => {
  const cache = cacheOf(6, 4);
  const source = cache.open();
  write(cache, source, [1, 2, 3, 4, 5, 6]);
  const forks = [cache.fork(source), cache.fork(source), cache.fork(source, 4)];
  t.is(cache.freePages, 4);
  t.deepEqual(
    [source, ...forks].map((sequence) => cache.pagesNeeded(sequence, 1)),
    [0, 1, 1, 1],
  );
  write(cache, source, [7]);
  write(cache, forks[0], [8]);
  cache.close(source);
  t.is(cache.pagesNeeded(forks[1], 1), 0, "nobody else holds the page any more");
  write(cache, forks[1], [9]);
  write(cache, forks[2], [10]);
  t.deepEqual((await read(cache, forks[0]))[0], [1, 2, 3, 4, 5, 6, 8]);
  t.deepEqual((await read(cache, forks[1]))[1], [1, 2, 3, 4, 5, 6, 9]);
  t.deepEqual((await read(cache, forks[2]))[0], [1, 2, 3, 4, 10]);
  t.is(cache.freePages, 6 - 4);
  t.throws(() => cache.fork(source), { message: /this sequence was closed/ });
  t.throws(() => cache.fork(forks[0], 8), { message: /fork of 8 tokens, where 7 are cached/ });
  t.throws(() => cache.extend([source], [1]), { message: /this sequence was closed/ });
});

test("pages are reserved for what a device will write, and those that it did not fill go back", (t) => {
  const cache = cacheOf(4, 4);
  const sequence = cache.open();
  cache.extend([sequence], [3]);
  sequence.target = 14;
  cache.reserve([sequence], [14]);
  t.deepEqual([sequence.length, cache.freePages, cache.pagesPromised], [3, 0, 0]);
  cache.advance(sequence, 5);
  t.throws(() => cache.advance(sequence, 4), { message: /advance to 4 tokens from 5, with pages for 16/ });
  t.throws(() => cache.advance(sequence, 17), { message: /advance to 17 tokens from 5/ });
  cache.trim(sequence);
  t.deepEqual([sequence.length, sequence.pages.length, cache.freePages], [5, 2, 2]);
  t.throws(() => cache.reserve([sequence], [17]), { message: /3 pages wanted and 2 of 4 free/ });
  t.deepEqual([sequence.pages.length, cache.freePages], [2, 2]);
});

test("whoever depends on what the cache holds is told once when it is dropped", (t) => {
  const backend = createCpu();
  const cache = cacheOf(4, 4, backend);
  let dropped = 0;
  const drops = (drop: () => void) => {
    dropped = 0;
    cache.whenDropped(() => dropped++);
    drop();
    drop();
    return dropped;
  };
  const weight = tensor([1, 2], { backend });
  t.is(
    drops(() => cache.useWeights(new Map([["w", weight]]))),
    1,
  );
  for (const drop of ["reset", "release", "dispose"] as const)
    t.is(
      drops(() => cache[drop]()),
      1,
      drop,
    );
});

test("sequences are listed from the least to the most recently extended", (t) => {
  const cache = cacheOf(4, 4);
  const [a, b, c] = [cache.open(), cache.open(), cache.open()];
  cache.extend([b], [1]);
  cache.extend([a], [1]);
  t.deepEqual([...cache.sequences], [c, b, a]);
});

test("a sequence that is being continued keeps its pages", (t) => {
  const cache = cacheOf(4, 4);
  const sequence = cache.open();
  cache.extend([sequence], [3]);
  sequence.target = 9;
  t.is(cache.pagesPromised, 2);
  for (const take of [() => cache.evict(sequence), () => cache.close(sequence)]) {
    t.throws(take, { message: /this sequence is being continued/ });
  }
  for (const take of [() => cache.reset(), () => cache.release()]) {
    t.throws(take, { message: /sequences are being continued/ });
  }
  t.is(sequence.length, 3);
});

test("the pool is allocated at first use, given back by release, and gone after dispose", async (t) => {
  const backend = createCpu();
  const cache = cacheOf(4, 4, backend);
  t.is(backend.memory().buffers, 0);
  const sequence = cache.open();
  write(cache, sequence, [1, 2]);
  t.is(backend.memory().buffers, tinyConfig.layers);
  t.true(backend.memory().bytes >= tinyConfig.layers * 4 * 4 * width * 4);
  cache.release();
  t.deepEqual([backend.memory().bytes, sequence.length, cache.freePages], [0, 0, 4]);
  write(cache, sequence, [3]);
  t.deepEqual((await read(cache, sequence))[0], [3]);
  cache.dispose();
  t.is(backend.memory().bytes, 0);
  t.throws(() => cache.extend([sequence], [1]), { message: /disposed of/ });
});

test("keys of other weights are not kept", async (t) => {
  const backend = createCpu();
  const cache = cacheOf(4, 4, backend);
  const weight = tensor([1, 2], { backend });
  const [weights, others] = [new Map([["w", weight]]), new Map([["w", weight]])];
  const [idle, busy] = [cache.open(), cache.open()];
  const fill = (of: typeof weights) => {
    cache.useWeights(of);
    if (idle.length === 0) cache.extend([idle, busy], [2, 1]);
  };
  fill(weights);
  fill(weights);
  t.deepEqual([idle.length, busy.length], [2, 1]);
  fill(others);
  weight.assign(tensor([3, 4], { backend }));
  cache.useWeights(others);
  t.deepEqual([idle.length, cache.freePages], [0, 4]);
  fill(others);
  busy.target = 8;
  t.throws(() => cache.useWeights(weights), { message: /the weights changed while sequences were being continued/ });
});
