import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import type { CudaDevice } from "../../../../lib/backend/cuda/device.js";
import { ChoiceTable, commonRows, fastest, sixteenth } from "../../../../lib/backend/cuda/tune.js";
import { temporaryFolder } from "../../../temporary.js";
import { cudaTest, openCuda } from "./support.js";

test.serial("choices are kept for later runs on such a device, what other processes chose too", (t) => {
  const before = process.env.ITPO_CACHE;
  t.teardown(() => {
    if (before === undefined) delete process.env.ITPO_CACHE;
    else process.env.ITPO_CACHE = before;
  });
  const cache = temporaryFolder(t);
  process.env.ITPO_CACHE = cache;
  const open = () => new ChoiceTable({ name: "Some GPU" } as CudaDevice, "library 1");
  const [one, another] = [open(), open()];
  one.set("a", Uint8Array.of(1, 2, 255));
  another.set("b", Uint8Array.of(0));
  const later = open();
  t.deepEqual(later.get("a"), Uint8Array.of(1, 2, 255));
  t.deepEqual(later.get("b"), Uint8Array.of(0));
  t.is(later.get("c"), undefined);
  t.is(new ChoiceTable({ name: "Other GPU" } as CudaDevice, "library 1").get("a"), undefined);

  const folder = join(cache, "cuda");
  for (const name of readdirSync(folder)) writeFileSync(join(folder, name), "damaged");
  t.is(open().get("a"), undefined);
});

test("products of few rows share choices, up to twice the rows, of more up to a quarter more; gradients and batches do not", (t) => {
  const rows = Array.from({ length: 2048 }, (_, i) => commonRows({ m: i + 1, transposeA: false }));
  t.deepEqual([...new Set(rows)].slice(0, 10), [16, 32, 64, 128, 256, 320, 384, 448, 512, 640]);
  t.is(new Set(rows).size, 17);
  t.true(rows.every((common, i) => common! > i && (i < 256 || common! <= 1.25 * (i + 1))));
  t.is(commonRows({ m: 2049, transposeA: false }), undefined);
  t.is(commonRows({ m: 64, transposeA: true }), undefined);
  t.is(commonRows({ m: 64, transposeA: false, batch: 2 }), undefined);
});

test("sizes are rounded up by a sixteenth at most", (t) => {
  t.deepEqual([1, 31, 32, 33, 64, 65, 1000, 11_008].map(sixteenth), [1, 31, 32, 34, 64, 68, 1024, 11_264]);
});

cudaTest("of several ways the fastest is taken that gives the bits of the first", async (t) => {
  const { device } = await openCuda();
  const before = device.memory().bytes;
  const bytes = 2 ** 24;
  // What is written, and how often: the more often, the longer it takes.
  const ways = [
    { value: 1, times: 9 },
    { value: 2, times: 1 },
    { value: 1, times: 3 },
    { value: 1, times: 6 },
  ];
  const chosen = fastest(device, ways.length, bytes, (i, target) => {
    for (let n = 0; n < ways[i].times; n++) device.driver.memsetD8(target, ways[i].value, bytes, device.stream);
  });
  t.is(chosen, 2);
  t.is(device.memory().bytes, before);
});
