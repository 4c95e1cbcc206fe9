import { setTimeout as sleep } from "node:timers/promises";
import test from "ava";
import { delayMetrics, watchLoopDelay } from "../../rl/loopDelay.js";

function block(milliseconds: number): void {
  for (const end = performance.now() + milliseconds; performance.now() < end; );
}

test.serial("a loop that is blocked is late by that; the next look does not know of it", async (t) => {
  const loop = watchLoopDelay();
  await sleep(30);
  block(200);
  await sleep(30);
  const { p99, max } = loop.take();
  t.true(max >= 150 && max < 2000, `${max} ms`);
  t.true(p99 >= 150 && p99 <= max, `${p99} ms`);
  await sleep(30);
  t.true(loop.delays.max < 150, `${loop.delays.max} ms`);
  loop.stop();
});

test("before the first look there is no delay, and there are two metrics", (t) => {
  const loop = watchLoopDelay();
  t.deepEqual(delayMetrics(loop.delays), { "event_loop/p99_ms": 0, "event_loop/max_ms": 0 });
  loop.stop();
});
