import { readFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import fc from "fast-check";
import { loadTokenizer, type Tokenizer, trainBpe } from "../../../models/tokenizer/index.js";
import { fixture } from "../../support.js";
import { anyText, Oracle, oracleIds, withoutSpecialTokens } from "./oracle.js";

const specialTokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const config = { chatTemplate: "{{ messages }}", eosToken: "<|im_end|>", padToken: "<|endoftext|>" };
const corpus = readFileSync(fixture("sentencepiece", "corpus.txt"), "utf8").split("\n");

/** What `body` finds in a folder with the tokenizer's files. */
async function saved<T>(tokenizer: Tokenizer, body: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "itpo-"));
  try {
    await tokenizer.save(directory);
    return await body(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** The definition: count all pairs, merge the most frequent, of equals the one with the lowest ids, again and again. */
function naiveMerges(words: string[], merges: number): string[] {
  const ids = new Map([..."abcd"].map((c, i) => [c, i]));
  let split = words.map((word) => [...word]);
  const result: string[] = [];
  while (result.length < merges) {
    const counts = new Map<string, number>();
    for (const word of split) {
      for (let i = 1; i < word.length; i++) {
        const pair = `${word[i - 1]} ${word[i]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const rank = (pair: string) => pair.split(" ").map((token) => ids.get(token)!);
    const [best] = [...counts]
      .filter(([, count]) => count > 1)
      .sort((a, b) => b[1] - a[1] || rank(a[0])[0] - rank(b[0])[0] || rank(a[0])[1] - rank(b[0])[1]);
    if (best === undefined) break;
    result.push(best[0]);
    const [left, right] = best[0].split(" ");
    if (!ids.has(left + right)) ids.set(left + right, ids.size);
    split = split.map((word) => {
      const merged: string[] = [];
      for (const token of word) {
        if (token === right && merged.at(-1) === left) merged[merged.length - 1] = left + right;
        else merged.push(token);
      }
      return merged;
    });
  }
  return result;
}

const mergesIn = async (directory: string): Promise<string[]> =>
  JSON.parse(await readFile(join(directory, "tokenizer.json"), "utf8")).model.merges;

test("merges are those of the definition", async (t) => {
  const word = fc.string({ unit: fc.constantFrom("a", "b", "c", "d"), minLength: 1, maxLength: 12 });
  const property = fc.asyncProperty(fc.array(word, { minLength: 1, maxLength: 12 }), async (words) => {
    const tokenizer = await trainBpe(words, { vocabSize: 280, specialTokens: [] });
    const expected = naiveMerges(words, 24);
    t.deepEqual(await saved(tokenizer, mergesIn), expected);
    t.is(tokenizer.vocabSize, 256 + new Set(expected.map((pair) => pair.replace(" ", ""))).size);
  });
  await fc.assert(property, { numRuns: 200 });
});

test("a trained tokenizer has the same ids in tokenizers, and after loading", async (t) => {
  const tokenizer = await trainBpe(corpus, { vocabSize: 500, specialTokens, config });
  t.is(tokenizer.vocabSize, 500);
  t.deepEqual([...tokenizer.specialTokens.values()], [497, 498, 499]);
  await saved(tokenizer, async (directory) => {
    const loaded = await loadTokenizer(directory);
    t.deepEqual(loaded.config, { ...config, bosToken: undefined, unkToken: undefined });
    const oracle = Oracle.fromFile(join(directory, "tokenizer.json"));
    const plainOracle = withoutSpecialTokens(directory);
    const property = fc.asyncProperty(fc.oneof(anyText, fc.constantFrom(...corpus)), async (text) => {
      const ids = tokenizer.encode(text);
      t.deepEqual(ids, await oracleIds(plainOracle, text));
      t.deepEqual(loaded.encode(text), ids);
      t.is(tokenizer.decode(ids), oracle.getNormalizer()!.normalizeString(text));
      t.deepEqual(tokenizer.encode(text, { specialTokens: true }), await oracleIds(oracle, text));
    });
    await fc.assert(property, { numRuns: 300 });
  });
});

test("training depends on the texts alone", async (t) => {
  async function* streamed() {
    yield* corpus;
  }
  const train = (texts: Iterable<string> | AsyncIterable<string>) => trainBpe(texts, { vocabSize: 400, specialTokens });
  const merges = await saved(await train(corpus), mergesIn);
  t.deepEqual(await saved(await train(streamed()), mergesIn), merges);
  t.deepEqual(await saved(await train(corpus.toReversed()), mergesIn), merges);
});

test("training stops when no pair occurs twice", async (t) => {
  const tokenizer = await trainBpe(["abcd abcd"], { vocabSize: 1000, specialTokens });
  t.deepEqual(await saved(tokenizer, mergesIn), ["a b", "c d", "ab cd"]);
  t.is(tokenizer.vocabSize, 256 + 3 + 3);
});

test("a vocabulary that cannot hold the bytes is refused", async (t) => {
  for (const vocabSize of [258, 65_537, Number.NaN]) {
    await t.throwsAsync(trainBpe([], { vocabSize, specialTokens }), { name: "InputError", message: /vocabSize/ });
  }
});
