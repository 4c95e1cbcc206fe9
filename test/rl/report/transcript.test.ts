import { appendFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import {
  openTranscripts,
  readTranscripts,
  spreadTranscripts,
  TRANSCRIPTS_FILE,
  type Transcript,
} from "../../../rl/report/transcript.js";

const folder = () => mkdtempSync(join(tmpdir(), "itpo-transcripts-"));

function transcript(step: number, sample = 0, label?: string): Transcript {
  const messages = [
    { role: "user", content: "help with paint\n\u2028😀" },
    { role: "assistant", content: "which colour ?", reward: 0.5, tokens: [{ text: "which", score: -0.1 }] },
  ];
  const metrics = { correct: 1 };
  return { step, ...(label ? { label } : {}), task: 7, sample, outcome: 1, metrics, stop: "user_done", messages };
}

test("transcripts are read back as written; a torn last line is ignored", (t) => {
  const directory = folder();
  const transcripts = openTranscripts(directory);
  const written = [transcript(0), transcript(0, 1), transcript(2, 0, "held-out")];
  transcripts.append(written);
  transcripts.close();
  appendFileSync(join(directory, TRANSCRIPTS_FILE), '{"step":3,"messages":[{"ro');
  t.deepEqual(readTranscripts(directory), written);
  t.deepEqual([...transcripts.kept], written);
});

test("a run resumed at an earlier step replaces what came after it", (t) => {
  const directory = folder();
  const before = openTranscripts(directory);
  before.append([transcript(0), transcript(4), transcript(8)]);
  before.close();
  const after = openTranscripts(directory);
  after.append([transcript(4, 1), transcript(4, 2)]);
  after.close();
  const expected = [transcript(0), transcript(4, 1), transcript(4, 2)];
  t.deepEqual([...after.kept], expected);
  t.deepEqual(readTranscripts(directory), expected);
});

test("numbers that are not finite are left out, an outcome becomes null", (t) => {
  const directory = folder();
  const transcripts = openTranscripts(directory);
  const message = { role: "assistant", content: "x", reward: Number.NaN, advantage: 1 };
  transcripts.append([{ ...transcript(1), outcome: Number.NaN, messages: [message] }]);
  transcripts.close();
  const [read] = readTranscripts(directory);
  t.is(read.outcome, null);
  t.deepEqual(read.messages, [{ role: "assistant", content: "x", advantage: 1 }]);
});

test("a selection keeps the limit, the first and last step, even spacing and every label", (t) => {
  const steps = Array.from({ length: 1001 }, (_, i) => i);
  const all = steps.flatMap((step) => [transcript(step, 0), transcript(step, 1)]);
  const heldOut = [0, 500, 1000].map((step) => transcript(step, 0, "held-out"));
  const kept = spreadTranscripts([...all, ...heldOut], 200);
  t.true(kept.length <= 200 && kept.length > 90);
  t.is(kept.filter((each) => each.label === "held-out").length, 3);
  const training = [...new Set(kept.filter((each) => !each.label).map((each) => each.step))];
  t.is(training[0], 0);
  t.is(training.at(-1), 1000);
  const gaps = training.slice(1).map((step, i) => step - training[i]);
  t.true(Math.max(...gaps) - Math.min(...gaps) <= 1, `gaps from ${Math.min(...gaps)} to ${Math.max(...gaps)}`);
});

test("memory stays bounded and evenly spread over a long run", (t) => {
  const transcripts = openTranscripts(folder(), 20);
  for (let step = 0; step < 1000; step++) transcripts.append([transcript(step)]);
  transcripts.close();
  t.true(transcripts.kept.length <= 40);
  const kept = spreadTranscripts(transcripts.kept, 20).map((each) => each.step);
  t.is(kept[0], 0);
  t.is(kept.at(-1), 999);
  const gaps = kept.slice(1).map((step, i) => step - kept[i]);
  t.true(Math.max(...gaps) <= 120, `largest gap ${Math.max(...gaps)}`);
});

test("small limits hold", (t) => {
  const all = [0, 1, 2, 3].flatMap((step) => [transcript(step), transcript(step, 1, "held-out")]);
  for (let limit = 1; limit <= 9; limit++) t.true(spreadTranscripts(all, limit).length <= limit);
  const training = all.filter((each) => !each.label);
  t.deepEqual(
    spreadTranscripts(training, 2).map((each) => each.step),
    [0, 3],
  );
});
