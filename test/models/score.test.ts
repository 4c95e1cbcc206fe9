import test from "ava";
import { InputError } from "../../lib/index.js";
import { score } from "../../models/index.js";
import { maxDifference } from "./fixtures.js";
import { tinyConfig, tinyModel } from "./tiny.js";

const model = tinyModel();
const sequences = [[5, 9, 14, 3, 8, 21], [7], [60, 2, 2, 2], [1, 0]];

test("one log-prob for each token after the first, one entropy for each token, within their bounds", async (t) => {
  const { logprobs, entropy } = await score(model, sequences);
  sequences.forEach((ids, i) => {
    t.deepEqual([logprobs[i].length, entropy[i].length], [ids.length - 1, ids.length]);
    t.true(logprobs[i].every((value) => value < 0));
    t.true(entropy[i].every((value) => value > 0 && value < Math.log(tinyConfig.vocabSize)));
  });
});

test("how many sequences share a pass changes nothing", async (t) => {
  const whole = await score(model, sequences);
  for (const batchTokens of [1, 5, 7]) {
    const cut = await score(model, sequences, { batchTokens });
    sequences.forEach((_, i) => {
      t.true(maxDifference(cut.logprobs[i], whole.logprobs[i]) < 1e-5);
      t.true(maxDifference(cut.entropy[i], whole.entropy[i]) < 1e-5);
    });
  }
});

test("the probabilities of all tokens at a place add up to 1, and give the entropy there", async (t) => {
  const all = Array.from({ length: tinyConfig.vocabSize }, (_, id) => [5, 9, 14, id]);
  for (const temperature of [1, 0.5]) {
    const { logprobs, entropy } = await score(model, all, { temperature });
    const last = logprobs.map((row) => row[2]);
    const sum = last.reduce((total, logprob) => total + Math.exp(logprob), 0);
    t.true(Math.abs(sum - 1) < 1e-5);
    const expected = -last.reduce((total, logprob) => total + Math.exp(logprob) * logprob, 0);
    t.true(Math.abs(entropy[0][2] - expected) < 1e-4);
  }
});

test("a sequence that the model cannot take is refused, and named", async (t) => {
  for (const [ids, message] of [
    [[], /sequence 1 is empty; give at least one token/],
    [Array(65).fill(3), /sequence 1 has 65 tokens; the model allows 64: shorten it/],
    [[1, 61], /sequence 1: 61 at 1 is no token id; ids are 0 to 60/],
    [[1, 2, -1], /sequence 1: -1 at 2 is no token id/],
    [[2.5], /sequence 1: 2\.5 at 0 is no token id/],
    [[Number.NaN], /sequence 1: NaN at 0 is no token id/],
  ] as const) {
    await t.throwsAsync(score(model, [[1], ids as number[]]), { instanceOf: InputError, message });
  }
});
