import test from "ava";
import { formatDuration, formatNumber } from "../../../rl/report/format.js";
import { formatLiveLine, noteSkipped, openLiveLine, stepClock } from "../../../rl/report/liveLine.js";

const status = {
  step: 37,
  steps: 80,
  values: { outcome: 0.6219, "held-out": 0.71, "PRM loss": 0.41 },
  tokensPerSecond: 1234.4,
  secondsLeft: 14.2,
};

test("the live line shows step, values, speed and time left", (t) => {
  t.is(formatLiveLine(status), "step 37/80  outcome 0.62  held-out 0.71  PRM loss 0.41  1,234 tok/s  0:14 left");
});

test("what is not known is left out; small numbers keep their size", (t) => {
  const values = { outcome: undefined, lr: 0.0003, loss: Number.NaN };
  t.is(formatLiveLine({ step: 1, steps: 100, values }), "step   1/100  lr 3e-4  loss NaN");
});

test("on a narrow terminal values go first, then nothing wraps", (t) => {
  t.is(formatLiveLine(status, 60), "step 37/80  outcome 0.62  held-out 0.71  0:14 left");
  t.is(formatLiveLine(status, 25), "step 37/80  0:14 left");
  t.is(formatLiveLine(status, 8), "step 37/");
});

test("the time left follows a moving average of the step time", (t) => {
  const constant = stepClock();
  t.is(constant(0, 100, 10), undefined);
  t.true(Math.abs(constant(1, 102, 10)! - 18) < 1e-9);
  t.true(Math.abs(constant(4, 108, 10)! - 12) < 1e-9, "steps may be skipped");
  t.is(constant(10, 120, 10), 0);
  const slowing = stepClock(0.5);
  slowing(0, 0, 100);
  slowing(1, 1, 100);
  const left = slowing(2, 4, 100)!;
  t.true(Math.abs(left / 98 - (0.5 * 1 + 1 * 3) / 1.5) < 1e-9, "the newer step weighs twice the older one");
});

function terminal(isTTY: boolean) {
  const written: string[] = [];
  return { written, isTTY, columns: 60, write: (text: string) => written.push(text) };
}

test("on a terminal the line is rewritten in place, and a note stays above it", (t) => {
  const stream = terminal(true);
  const live = openLiveLine({ steps: 2, stream, now: () => 0 });
  live.update({ step: 1, values: { outcome: 0.5 } });
  live.note("checkpoint saved");
  live.update({ step: 2, values: { outcome: 1 } });
  live.end();
  t.is(
    stream.written.join(""),
    "\rstep 1/2  outcome 0.50  0:00 left\x1b[K" +
      "\r\x1b[Kcheckpoint saved\nstep 1/2  outcome 0.50  0:00 left" +
      "\rstep 2/2  outcome 1.00  0:00 left\x1b[K\n",
  );
});

test("elsewhere plain lines come for the first and last step and every few seconds", (t) => {
  const stream = terminal(false);
  let seconds = 0;
  const live = openLiveLine({ steps: 20, stream, everySeconds: 5, now: () => seconds });
  for (let step = 1; step <= 20; step++) {
    seconds += 1;
    live.update({ step });
  }
  live.note("done");
  live.end();
  t.deepEqual(stream.written, [
    "step  1/20  0:19 left\n",
    "step  6/20  0:14 left\n",
    "step 11/20  0:09 left\n",
    "step 16/20  0:04 left\n",
    "step 20/20  0:00 left\n",
    "done\n",
  ]);
});

test("a resumed run does not count the steps behind it as quick", (t) => {
  const stream = terminal(false);
  let seconds = 0;
  const live = openLiveLine({ steps: 40, done: 30, stream, now: () => seconds });
  seconds = 2;
  live.update({ step: 31 });
  t.deepEqual(stream.written, ["step 31/40  0:18 left\n"]);
});

test("updates that were dropped are told in a line that stays, and nothing is told of none", (t) => {
  const stream = terminal(false);
  const live = openLiveLine({ steps: 40, stream });
  noteSkipped(live, 3, { policy: 0, "reward model": undefined });
  t.deepEqual(stream.written, []);
  noteSkipped(live, 4, { policy: 1, "reward model": 0.25 });
  t.deepEqual(stream.written, [
    "step 4: the update of the policy dropped, the gradient was not finite; lower its lr\n",
    "step 4: 25 % of the updates of the reward model dropped, the gradient was not finite; lower its lr\n",
  ]);
});

test("numbers for people", (t) => {
  const numbers = [0, 1, 0.62, 0.01234, 12.345, 123.45, 1234.5, 98_700, 0.00012, -0.5, null, Number.NaN];
  t.deepEqual(numbers.map(formatNumber), [
    "0",
    "1",
    "0.620",
    "0.0123",
    "12.35",
    "123.5",
    "1,235",
    "98,700",
    "1.2e-4",
    "-0.500",
    "–",
    "–",
  ]);
  t.deepEqual([0, 14.4, 75, 3600, 7265].map(formatDuration), ["0:00", "0:14", "1:15", "1:00:00", "2:01:05"]);
});
