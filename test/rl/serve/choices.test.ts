import test from "ava";
import fc from "fast-check";
import { answerLine } from "../../../rl/serve/batchLine.js";
import { drawChoice } from "../../../rl/serve/choice.js";
import { drawChoices } from "../../../rl/serve/choices.js";
import type { Delta } from "../../../rl/serve/choiceText.js";
import { Engine, type EngineOptions } from "../../../rl/serve/engine.js";
import { noiseSite } from "../../../rl/serve/sampling.js";
import { babbler, hello, serve } from "./support.js";

/** A babbler that counts the tokens that forward passes compute, and the sequences in the largest of them. */
async function countingBabbler() {
  const { model, tokenizer } = await babbler();
  const count = { tokens: 0, sequences: 0 };
  const forwardCached = model.forwardCached.bind(model);
  model.forwardCached = (batch, step) => {
    count.tokens += batch.ids.size;
    count.sequences = Math.max(count.sequences, batch.offsets.length - 1);
    return forwardCached(batch, step);
  };
  return { model, tokenizer, count };
}

async function counting(options: Partial<EngineOptions> = {}) {
  const { count, ...babbling } = await countingBabbler();
  return { engine: new Engine({ ...babbling, pageSize: 8, ...options }), count };
}

interface Answer {
  readonly text: string;
  readonly logprobs: readonly unknown[];
}

const joined = (deltas: readonly Delta[]): Answer => ({
  text: deltas.map(({ content }) => content).join(""),
  logprobs: deltas.flatMap(({ logprobs }) => logprobs),
});

const request = fc.record({
  tokens: fc.array(fc.integer({ min: 0, max: 255 }), { minLength: 1, maxLength: 60 }),
  maxTokens: fc.integer({ min: 1, max: 12 }),
  count: fc.integer({ min: 1, max: 6 }),
  seed: fc.nat(2 ** 31),
  sampling: fc.constantFrom({ temperature: 1 }, { temperature: 0 }, { temperature: 1.3, topK: 9 }),
  topLogprobs: fc.constantFrom(0, 3),
});

test("answers to one prompt share what is computed of it, and are what each is alone, to the bit", async (t) => {
  const limits = fc.record({
    pageSize: fc.constantFrom(1, 4, 8),
    cacheGiB: fc.constantFrom(0, 1),
    maxBatch: fc.constantFrom(2, 64),
  });
  const { count, ...babbling } = await countingBabbler();
  const property = fc.asyncProperty(
    fc.array(request, { minLength: 1, maxLength: 3 }),
    limits,
    async (requests, options) => {
      Object.assign(count, { tokens: 0, sequences: 0 });
      const engine = new Engine({ ...babbling, ...options });
      const common = { stops: [], logprobs: true };
      const drawn = await Promise.all(
        requests.map(async (each) => {
          const deltas = Array.from({ length: each.count }, (): Delta[] => []);
          const ends = await drawChoices(
            engine,
            { ...each, ...common },
            { delta: (choice, delta) => deltas[choice].push(delta), finish() {} },
          );
          return { answers: deltas.map(joined), ends };
        }),
      );
      t.true(engine.idle);
      t.true(count.sequences <= options.maxBatch, `${count.sequences} at once`);
      engine.dispose();
      // The last token drawn is not computed.
      const least = requests.map(({ tokens, count }, i) => {
        const decoded = drawn[i].ends.reduce((sum, end) => sum + end.tokens - 1, 0);
        return decoded + (count > 1 ? tokens.length - 1 + count : tokens.length);
      });
      // Where the cache is too small for all, openings are evicted and computed again.
      if (options.cacheGiB > 0)
        t.is(
          count.tokens,
          least.reduce((a, b) => a + b, 0),
        );
      for (const [i, { count, seed, ...each }] of requests.entries()) {
        for (let choice = 0; choice < count; choice++) {
          const alone = new Engine(babbling);
          const deltas: Delta[] = [];
          const site = noiseSite(seed, choice);
          const end = await drawChoice(alone, { ...each, ...common, site }, (delta) => deltas.push(delta));
          alone.dispose();
          t.deepEqual([drawn[i].answers[choice], drawn[i].ends[choice]], [joined(deltas), end]);
        }
      }
    },
  );
  await fc.assert(property, { numRuns: 25 });
});

test("four answers, asked for by a client or a line of a file, compute their prompt once", async (t) => {
  const { count, ...babbling } = await countingBabbler();
  const { engine, client } = await serve(t, { engine: babbling });
  const prompt = engine.prompt(hello.messages).length;
  // Every answer computes the prompt's last token, and all but the last of its own.
  const expected = (drawn: number) => prompt - 1 + 4 + drawn - 4;
  const line = JSON.stringify({ messages: hello.messages, n: 4, max_tokens: 9 });
  const record = await answerLine(engine, line, { line: 1, seed: 3, sampling: { temperature: 1 } });
  if ("error" in record) return t.fail(record.error);
  t.is(count.tokens, expected(record.usage.completion_tokens));
  count.tokens = 0;
  const { usage } = await client.chat.completions.create({ ...hello, n: 4 });
  t.is(count.tokens, expected(usage!.completion_tokens));
});

test("a failure of one answer ends the others, and nothing keeps a place", async (t) => {
  const { engine } = await counting();
  const tokens = engine.prompt(hello.messages);
  const drawing = drawChoices(
    engine,
    { tokens, maxTokens: 200, count: 4, seed: 1, stops: [], logprobs: false, sampling: { temperature: 1 } },
    {
      delta(choice) {
        if (choice === 2) throw new Error("no more");
      },
      finish() {},
    },
  );
  await t.throwsAsync(drawing, { message: "no more" });
  t.true(engine.idle);
  engine.dispose();
});

test("who has gone already has nothing computed", async (t) => {
  const { engine, count } = await counting();
  const signal = AbortSignal.abort(new Error("gone"));
  const options = { stops: [], logprobs: false, sampling: { temperature: 1 }, signal };
  const drawing = drawChoices(
    engine,
    { tokens: [1, 2, 3], maxTokens: 9, count: 3, seed: 1, ...options },
    { delta() {}, finish() {} },
  );
  await t.throwsAsync(drawing, { message: "gone" });
  t.deepEqual([engine.idle, count.tokens], [true, 0]);
  engine.dispose();
});
