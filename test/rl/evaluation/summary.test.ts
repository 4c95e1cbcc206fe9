import { writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { InputError } from "../../../lib/errors.js";
import { compareEvaluations, comparisonRows } from "../../../rl/evaluation/compare.js";
import { type EvaluationRecord, readEvaluation } from "../../../rl/evaluation/record.js";
import { summarize } from "../../../rl/evaluation/summary.js";
import { summaryTable } from "../../../rl/evaluation/table.js";
import type { Trajectory } from "../../../rl/trajectory.js";
import { temporaryFolder } from "../../temporary.js";

const outcome = { metrics: { accuracy: 1 }, tokenPenalty: 0, wordPenalty: 0 };

/** Conversations by task: an accuracy each, undefined where it failed. */
function conversations(accuracies: readonly (readonly (number | undefined)[])[], topic = "task"): Trajectory[] {
  return accuracies.flatMap((samples, task) =>
    samples.map(
      (accuracy, sample): Trajectory => ({
        ...{
          task,
          sample,
          messages: [{ role: "user", content: `${topic} ${task}` }],
          turns: [{ start: 1, end: 2, stop: "stop" as const }],
        },
        ...{ tokens: new Int32Array(2), sampled: new Uint8Array(2), logprobs: new Float32Array(2) },
        metrics: (accuracy === undefined ? {} : { accuracy }) as Record<string, number>,
        stop: accuracy === undefined ? "failed" : "max_turns",
        ...(accuracy === undefined && { failure: "the judge is ill" }),
      }),
    ),
  );
}

test("the mean is over prompts; failed conversations are counted and in no number", (t) => {
  const summary = summarize(
    conversations([
      [1, undefined],
      [0, 0],
      [undefined, undefined],
    ]),
    { outcome },
  );
  t.like(summary, { prompts: 2, samples: 2, conversations: 6, failed: 3, stops: { max_turns: 0.5, failed: 0.5 } });
  t.is(summary.metrics.outcome.mean, 0.5, "not 1/3");
  t.deepEqual(summary.metrics.accuracy.best, { 2: 0.5 });
  t.like(summary.tasks[0], { task: 0, values: { outcome: [1], accuracy: [1] } });
  t.regex(summaryTable(summary), /^2 prompts × 2 samples, 3 of 6 conversations failed; max_turns 50 %, failed 50 %\n/);
});

test("differences are paired by prompt: what is hard for both does not blur them", (t) => {
  const record = (accuracies: number[][]) =>
    summarize(conversations(accuracies), { outcome }) as unknown as EvaluationRecord;
  const [first, second] = [record([[0], [0.4], [0.8]]), record([[0.1], [0.5], [0.9], [1]])];
  const comparison = compareEvaluations(first, second, ["old", "new"]);
  t.is(comparison.prompts, 3, "those that both have");
  const [{ difference }] = comparison.metrics;
  t.true(difference.low > 0.0999 && difference.high < 0.1001);
  const [head, row] = comparisonRows(comparison);
  t.deepEqual(head.slice(0, 4), ["", "old", "new", "difference"]);
  t.regex(row[3], /^\+0\.100+ \*$/);
});

test("evaluations of other tasks, or without a common metric, are not compared", (t) => {
  const record = (topic?: string) =>
    summarize(conversations([[0], [1]], topic), { outcome }) as unknown as EvaluationRecord;
  const compare = (second: EvaluationRecord) => () => compareEvaluations(record(), second, ["old", "new"]);
  t.notThrows(compare(record()));
  t.throws(compare(record("case")), { instanceOf: InputError, message: /prompt 0 of old and new differ/ });
  t.throws(compare({ ...record(), metrics: {} }), { instanceOf: InputError, message: /no metric in common/ });
});

test("an evaluation that is none, or is damaged, is named", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "evaluation.json");
  await t.throwsAsync(readEvaluation(folder), { instanceOf: InputError, message: /evaluation.json: cannot be read/ });
  for (const text of ["<html>", "null", '{"metrics": {}}', '{"metrics": {}, "tasks": [{"task": 0}]}']) {
    writeFileSync(path, text);
    await t.throwsAsync(readEvaluation(folder), {
      instanceOf: InputError,
      message: /evaluation.json: is no evaluation/,
    });
  }
  const summary = summarize(conversations([[0, 1], [1]]), { outcome });
  writeFileSync(path, JSON.stringify(summary));
  t.deepEqual((await readEvaluation(folder)).tasks, summary.tasks);
});
