import { spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import test from "ava";
import { cudaDeviceCount } from "../../../../lib/backend/cuda/device.js";
import type { Driver } from "../../../../lib/backend/cuda/driver.js";
import { type Block, DeviceHeap } from "../../../../lib/backend/cuda/heap.js";
import { type DType, dtypes, hostArray } from "../../../../lib/dtype.js";
import {
  Arena,
  arena,
  attention,
  fromHost,
  full,
  linear,
  randomStream,
  type Shape,
  zeros,
} from "../../../../lib/index.js";
import { temporaryFolder } from "../../../temporary.js";
import { cudaTest, openCuda } from "./support.js";
import { SmallRun } from "./training.js";

const MIB = 2 ** 20;

/** The driver's memory calls over so many bytes of a device that does not exist. Each checks what it is given. */
function fakeDriver(capacity: number) {
  const mapped = new Map<number, { bytes: number; handle: bigint }>();
  const created = new Map<bigint, number>();
  const base = 2 ** 33;
  let handles = 0n;
  const used = () => [...created.values()].reduce((a, b) => a + b, 0);
  const expect = (holds: boolean, what: string) => {
    if (!holds) throw new Error(`fake driver: ${what}`);
  };
  const driver = {
    memAddressReserve(address: BigUint64Array) {
      address[0] = BigInt(base);
    },
    memCreate(handle: BigUint64Array, bytes: number) {
      expect(bytes > 0 && bytes % (2 * MIB) === 0, `${bytes} bytes are no multiple of the granule`);
      if (used() + bytes > capacity) return 2;
      created.set(++handles, bytes);
      handle[0] = handles;
      return 0;
    },
    memMap(address: number, bytes: number, _: number, handle: bigint) {
      expect(created.get(handle) === bytes, "mapping of what was not created");
      for (const [at, other] of mapped) expect(address >= at + other.bytes || address + bytes <= at, "mapped twice");
      mapped.set(address, { bytes, handle });
    },
    memSetAccess: (address: number, bytes: number) => expect(mapped.get(address)?.bytes === bytes, "access"),
    memUnmap(address: number, bytes: number) {
      expect(mapped.get(address)?.bytes === bytes, "unmapping of what is not mapped");
      mapped.delete(address);
    },
    memRelease: (handle: bigint) => expect(created.delete(handle), "released twice"),
    memAddressFree: () => expect(mapped.size === 0, "the range is freed with memory in it"),
    check: (call: string, status: number) => expect(status === 0, `${call}: ${status}`),
  };
  const holds = (block: Block) =>
    [...mapped].some(([at, { bytes }]) => at <= block.address && block.address < at + bytes) &&
    block.address + block.bytes <= base + used();
  return { driver: driver as unknown as Driver, used, holds };
}

const openHeap = (capacity = 64 * MIB, growth = 4 * MIB) => {
  const fake = fakeDriver(capacity);
  return { ...fake, heap: new DeviceHeap(fake.driver, 0, 2 ** 36, growth) };
};

test("heap: a freed block serves the next request that it fits best", (t) => {
  const { heap } = openHeap();
  const [small, gap, large, end] = [1000, 512, 100_000, 512].map((bytes) => heap.allocate(bytes, "test")!);
  t.is(small.bytes, 1024);
  t.is(heap.mapped, 4 * MIB);
  heap.release(large);
  heap.release(small);
  t.is(heap.allocate(900, "test")!.address, small.address);
  t.is(heap.allocate(60_000, "test")!.address, large.address);
  t.true(gap.address < large.address && large.address < end.address);
  t.is(heap.mapped, 4 * MIB);
});

test("heap: neighbours are joined in any order of release, and then all memory can be given back", (t) => {
  const random = randomStream(1);
  for (let round = 0; round < 6; round++) {
    const { heap, used } = openHeap();
    const blocks = Array.from({ length: 12 }, (_, i) => heap.allocate(700_000 + 1000 * i, `block ${i}`)!);
    t.deepEqual([...heap.blocks()].map(({ label }) => label).sort(), blocks.map(({ label }) => label).sort());
    for (const block of random.shuffle(blocks)) heap.release(block);
    t.deepEqual([...heap.blocks()], []);
    const { mapped } = heap;
    const whole = heap.allocate(mapped, "whole")!;
    t.is(whole.bytes, mapped);
    t.is(heap.mapped, mapped, "one free block was left, of all that is mapped");
    heap.trim();
    t.is(heap.mapped, mapped, "what is in use stays");
    heap.release(whole);
    heap.trim();
    t.deepEqual([heap.mapped, used()], [0, 0]);
    t.truthy(heap.allocate(5000, "again"));
    heap.close();
    t.is(used(), 0);
  }
});

test("heap: random work never hands out memory twice, unaligned or unmapped", (t) => {
  const { heap, holds, used } = openHeap();
  const random = randomStream(2);
  const live: Block[] = [];
  for (let i = 0; i < 4000; i++) {
    if (live.length > 0 && random.uniform() < 0.48) {
      heap.release(live.splice(random.int(live.length), 1)[0]);
    } else {
      const bytes = Math.ceil(2 ** (20 * random.uniform()));
      const block = heap.allocate(bytes, "test");
      if (!block) {
        t.true(used() + 2 * MIB > 64 * MIB, "only a full device refuses");
        continue;
      }
      t.true(block.bytes >= bytes && block.bytes < bytes + 512 && block.address % 512 === 0 && holds(block));
      live.push(block);
    }
    if (i % 50 === 0) heap.trim();
    const sorted = live.toSorted((a, b) => a.address - b.address);
    const overlap = sorted.findIndex(
      (block, j) => j > 0 && sorted[j - 1].address + sorted[j - 1].bytes > block.address,
    );
    if (overlap >= 0) t.fail(`block ${overlap} of step ${i} overlaps its neighbour`);
  }
  for (const block of live) heap.release(block);
  heap.trim();
  t.is(heap.mapped, 0);
});

test("heap: a full device refuses, and serves again after a release", (t) => {
  const { heap } = openHeap(16 * MIB, 8 * MIB);
  const first = heap.allocate(7 * MIB, "first")!;
  // Less is left than the heap likes to grow by: it takes what it needs.
  const second = heap.allocate(8 * MIB, "second")!;
  t.truthy(second);
  t.is(heap.allocate(4 * MIB, "third"), undefined);
  t.is(heap.mapped, 16 * MIB);
  heap.release(first);
  t.is(heap.allocate(4 * MIB, "third")!.address, first.address);
});

/** Runs child.js with these environment variables. */
function child(
  mode: string,
  env: Record<string, string> = {},
): Promise<{ code: number | null; out: string; err: string }> {
  const path = fileURLToPath(new URL("child.js", import.meta.url));
  return new Promise((resolve) => {
    const running = spawn(process.execPath, [path, ...mode.split(" ")], { env: { ...process.env, ...env } });
    let [out, err] = ["", ""];
    running.stdout.on("data", (data) => (out += data));
    running.stderr.on("data", (data) => (err += data));
    running.on("close", (code) => resolve({ code, out, err }));
  });
}

cudaTest("compiled kernels are kept on disk, and a damaged file is built again", async (t) => {
  const folder = temporaryFolder(t);
  const env = { ITPO_CACHE: folder, DEBUG: "1" };
  const first = await child("compute", env);
  t.is(first.code, 0, first.err);
  const files = readdirSync(join(folder, "cuda")).map((name) => join(folder, "cuda", name));
  t.true(files.length >= 4, `${files.length} files`);
  t.is(first.err.match(/^compiled /gm)?.length, files.length);

  const second = await child("compute", env);
  t.notRegex(second.err, /compiled/);
  t.is(second.out, first.out);

  const damages = [
    (bytes: Buffer) => bytes.subarray(0, bytes.length / 2),
    (bytes: Buffer) => bytes.fill(bytes[bytes.length >> 1] ^ 0x10, bytes.length >> 1, (bytes.length >> 1) + 1),
    () => Buffer.alloc(0),
    () => Buffer.from("no cubin at all, but a text of some length that somebody put here"),
  ];
  for (const [i, file] of files.entries()) writeFileSync(file, damages[i % damages.length](readFileSync(file)));
  const third = await child("compute", env);
  t.is(third.code, 0, third.err);
  t.is(third.out, first.out);
  t.is(third.err.match(/^compiled /gm)?.length, files.length);
  t.notRegex((await child("compute", env)).err, /compiled/);
});

cudaTest("two processes may compile into one folder at once", async (t) => {
  const folder = temporaryFolder(t);
  const runs = await Promise.all([1, 2, 3].map(() => child("compute", { ITPO_CACHE: folder })));
  for (const { code, out, err } of runs) {
    t.is(code, 0, err);
    t.is(out, runs[0].out);
  }
  t.deepEqual(
    readdirSync(join(folder, "cuda")).filter((name) => !name.endsWith(".cubin")),
    [],
  );
});

cudaTest("a folder that cannot be written costs nothing but time", async (t) => {
  const file = join(temporaryFolder(t), "file");
  writeFileSync(file, "");
  const { code, err } = await child("compute", { ITPO_CACHE: file });
  t.is(code, 0, err);
});

cudaTest("a kernel that traps is named: alone with ITPO_CUDA_SYNC=1, else among the last ones", async (t) => {
  const named = await child("trap", { ITPO_CUDA_SYNC: "1" });
  t.regex(named.out, /CUDA_ERROR_\w+ \(.+\); kernel falls_over\n/, named.err);
  const suspected = await child("trap", { ITPO_CUDA_SYNC: "0" });
  t.regex(suspected.out, /CUDA_ERROR_\w+ .*one of the last kernels: .+, falls_over; run again with ITPO_CUDA_SYNC=1/);
});

cudaTest("every device trains by itself, with the same result; one that is not there is named", async (t) => {
  const devices = cudaDeviceCount();
  const expected = await child("train cuda:0");
  t.regex(expected.out, /"cuda:0"/, expected.err);
  for (let i = 1; i < devices; i++) {
    const { out, err } = await child(`train cuda:${i}`);
    t.is(out, expected.out.replace("cuda:0", `cuda:${i}`), err);
  }
  const missing = await child(`train cuda:${devices}`);
  t.not(missing.code, 0);
  t.regex(missing.err, new RegExp(`cuda:${devices} does not exist; there is `));
});

cudaTest("out of memory says who asks for how much and who holds what, and the device goes on", async (t) => {
  const cuda = await openCuda();
  const held = full([2 ** 28], 1, { backend: cuda });
  const before = cuda.memory();
  for (let time = 0; time < 2; time++) {
    const error = t.throws(() => zeros([Math.ceil(cuda.device.totalBytes / 4) + 1], { backend: cuda }))!;
    const [head, ...rows] = error.message.split("\n");
    t.regex(head, /^cuda:0: out of memory: .+ asks for [\d.]+ GiB; arrays hold [\d.]+ GiB of [\d.]+ GiB, .+ free; use/);
    t.true(rows.length >= 1 && rows.length <= 12);
    t.true(rows.every((row) => /^ +\d+\.\d\d GiB in +\d+ {2}\S/.test(row)));
    const amounts = rows.map((row) => Number.parseFloat(row));
    t.true(amounts[0] >= 1);
    t.deepEqual(
      amounts,
      amounts.toSorted((a, b) => b - a),
    );
  }
  t.deepEqual([cuda.memory().bytes, cuda.memory().buffers], [before.bytes, before.buffers]);
  const sum = held.sum();
  t.is(await sum.item(), 2 ** 28);
  sum.dispose();
  held.dispose();
});

cudaTest("what is uploaded comes back, whatever its size and type, and the source may change at once", async (t) => {
  const cuda = await openCuda();
  const random = randomStream(4);
  for (const dtype of [...cuda.dtypes] as DType[]) {
    const { bytes } = dtypes[dtype];
    for (const size of [0, 1, 3, 17, 4096, 4 * MIB, 4 * MIB + 2, 70 * MIB].map((n) => Math.floor(n / bytes))) {
      const data = hostArray(dtype, size);
      // Few random words, over and over, in steps that no power of two divides.
      const words = Array.from({ length: 1009 }, () => random.word());
      for (let i = 0; i < size; i++) data[i] = dtype === "bool" ? words[i % 1009] & 1 : words[i % 1009];
      const copy = data.slice();
      const x = fromHost(data, { backend: cuda, dtype, shape: [size] });
      data.fill(0);
      const back = await cuda.download(x);
      x.dispose();
      t.true(Buffer.from(back.buffer).equals(Buffer.from(copy.buffer)), `${size} of ${dtype}`);
    }
  }
});

cudaTest("a download holds what was there when it was asked for", async (t) => {
  const cuda = await openCuda();
  const [x, later] = [full([100_003], 1, { backend: cuda }), full([100_003], 2, { backend: cuda })];
  const reads = Array.from({ length: 40 }, (_, i) => {
    const before = x.data();
    arena(() => x.assign(i % 2 === 0 ? later : later.mul(0.5)));
    return before;
  });
  x.dispose();
  for (const [i, values] of (await Promise.all(reads)).entries()) {
    t.true(values[0] === 1 + (i % 2) && values.every((value) => value === values[0]), `read ${i}`);
  }
  later.dispose();
});

cudaTest("shapes that do not fit are named with the operation, and the device goes on", async (t) => {
  const cuda = await openCuda();
  using owner = new Arena();
  const make = (shape: Shape) => owner.run(() => zeros(shape, { backend: cuda }));
  t.throws(() => linear(make([2, 3]), make([4, 5])), { message: /linear: .*\[2, 3\].*\[4, 5\]/ });
  t.throws(() => make([2, 3]).matmul(make([2, 3])), { message: /matmul: .*\[2, 3\].*\[2, 3\]/ });
  t.throws(() => make([2, 3]).add(make([2, 4])), { message: /add: .*\[2, 3\].*\[2, 4\]/ });
  t.throws(() => make([2, 3]).gatherRows(make([2])), { message: /gatherRows: .*\[2, 3\].*\[2\]/ });
  const layout = { heads: 2, kvHeads: 1, headDim: 8 };
  t.throws(() => attention(make([2, 31]), Int32Array.of(0, 2), layout), { message: /attention: .*\[2, 31\]/ });
  t.is(await owner.run(() => make([2, 3]).add(1).sum()).item(), 6);
});

for (const dtype of ["f32", "bf16"] as const) {
  cudaTest(`two runs of five training steps give the same bits, ${dtype}`, async (t) => {
    const backend = await openCuda();
    const run = async () => {
      const training = new SmallRun(backend, {}, dtype);
      for (let step = 0; step < 4; step++) await training.step(step);
      training.backward(4);
      const gradients = [...training.model.parameters.values()].map(({ grad }) => grad!.data());
      await training.update();
      const weights = [...training.model.parameters.values()].map((parameter) => parameter.data());
      const all = await Promise.all([...gradients, ...weights]);
      training.dispose();
      return all;
    };
    const [first, second] = [await run(), await run()];
    t.true(first.every((values) => values.some((value) => value !== 0)));
    for (const [i, values] of first.entries()) t.deepEqual(values, second[i], `array ${i}`);
  });
}

cudaTest("500 small steps leave the device as five do", async (t) => {
  const backend = await openCuda();
  const before = backend.memory();
  const training = new SmallRun(backend, {}, "bf16");
  const held = () => ({ ...backend.memory(), heldBytes: backend.device.heldBytes });
  let early: ReturnType<typeof held> | undefined;
  for (let step = 0; step < 500; step++) {
    // The batches of the first five steps, again and again: later ones may be larger.
    await training.step(step % 5);
    await training.loss(step % 5);
    if (step === 4) early = held();
  }
  t.deepEqual(held(), early);
  training.dispose();
  t.true(backend.memory().bytes <= early!.bytes);
  t.true(backend.memory().buffers - before.buffers < 8, "what a device keeps for later is a handful of tables");
});
