import { appendFileSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { InputError } from "../../../lib/errors.js";
import { METRICS_FILE, openMetrics, readMetrics } from "../../../rl/report/metrics.js";

const folder = () => mkdtempSync(join(tmpdir(), "itpo-metrics-"));

/** A clock that advances by hand. */
function clock(): { seconds: number; now: () => number } {
  const state = { seconds: 1000, now: () => state.seconds };
  return state;
}

test("what is logged during a step is one row, read back as written", (t) => {
  const directory = join(folder(), "runs", "new");
  const time = clock();
  const metrics = openMetrics(directory, time.now);
  time.seconds += 0.5;
  metrics.log({ "outcome/mean": 0.25, "prm/loss": 0.7 });
  metrics.log({ "prm/loss": 0.6, "rollout/tokens_per_s": 1234.5 });
  metrics.flush(1);
  time.seconds += 0.25;
  metrics.log({ "outcome/mean": 0.5 });
  metrics.flush(2);
  const rows = [
    { "outcome/mean": 0.25, "prm/loss": 0.6, "rollout/tokens_per_s": 1234.5, step: 1, time: 0.5 },
    { "outcome/mean": 0.5, step: 2, time: 0.75 },
  ];
  t.deepEqual(readMetrics(directory), rows);
  metrics.close();
});

test("a step is on disk as soon as it is flushed, and not before", (t) => {
  const directory = folder();
  const metrics = openMetrics(directory);
  metrics.log({ "policy/kl": 0.1 });
  t.deepEqual(readMetrics(directory), []);
  metrics.flush(1);
  t.is(readMetrics(directory).length, 1);
  metrics.close();
});

test("numbers that are not finite are null and counted", (t) => {
  const directory = folder();
  const metrics = openMetrics(directory);
  metrics.log({ a: Number.NaN, b: Number.POSITIVE_INFINITY, c: 1 });
  metrics.flush(1);
  t.is(metrics.nonFinite, 2);
  const [row] = readMetrics(directory);
  t.like(row, { a: null, b: null, c: 1 });
  metrics.close();
});

test("the torn last line of a killed process is ignored, wherever it was cut", (t) => {
  const directory = folder();
  const path = join(directory, METRICS_FILE);
  const whole = '{"step":1,"time":1}\n{"step":2,"time":2}\n';
  for (let length = 0; length <= whole.length; length++) {
    writeFileSync(path, whole.slice(0, length));
    t.is(readMetrics(directory).length, whole.slice(0, length).split("\n").length - 1);
  }
});

test("a resumed run cuts a torn line off, goes on in time and replaces the steps it repeats", (t) => {
  const directory = folder();
  const path = join(directory, METRICS_FILE);
  writeFileSync(
    path,
    '{"step":1,"time":10,"a":1}\n{"step":2,"time":20,"a":2}\n{"step":3,"time":30,"a":3}\n{"step":4,"ti',
  );
  const time = clock();
  const metrics = openMetrics(directory, time.now);
  t.deepEqual(
    readMetrics(directory).map((row) => row.step),
    [1, 2, 3],
  );
  time.seconds += 5;
  metrics.log({ a: 20 });
  metrics.flush(2);
  metrics.close();
  const rows = [
    { step: 1, time: 10, a: 1 },
    { step: 2, time: 35, a: 20 },
  ];
  t.deepEqual(readMetrics(directory), rows);
  t.notThrows(() =>
    readFileSync(path, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line)),
  );
});

test("a damaged line that is not the last is an error that names file and line", (t) => {
  const directory = folder();
  appendFileSync(join(directory, METRICS_FILE), '{"step":1,"time":1}\noops\n{"step":3,"time":3}\n');
  const error = t.throws(() => readMetrics(directory), { instanceOf: InputError });
  t.regex(error.message, /metrics\.jsonl, line 2: not JSON/);
});
