import test from "ava";
import fc from "fast-check";
import { loadTokenizer } from "../../../models/tokenizer/index.js";
import { anyText, Oracle, oracleIds, withoutSpecialTokens } from "./oracle.js";
import { qwenDirectory } from "./qwenFiles.js";

const models = await Promise.all(
  (["qwen2_5", "qwen3"] as const).map(async (name) => {
    const directory = qwenDirectory(name);
    const oracle = Oracle.fromFile(`${directory}/tokenizer.json`);
    return { name, ours: await loadTokenizer(directory), oracle, plainOracle: withoutSpecialTokens(directory) };
  }),
);
const [{ ours: qwen2_5, oracle: oracle2_5 }] = models;

for (const { name, ours, oracle, plainOracle } of models) {
  const examples: Record<string, string> = {
    empty: "",
    English:
      "The doctor asked: \"Where does it hurt?\" — I didn't say;  it's   the 3rd time we've TRIED, y'all'll see.\n\n\n",
    Chinese: "医生问：“哪里不舒服？”我没有说。\n今天是2024年11月23日，气温36.5度，龘靐齉。",
    code: "export function f(x: number[]): string {\n\tif (x?.length >= 1e3) return `$ {x[0]}`;\r\n  // done\n\n}\n",
    emoji: "👩‍🚀🇩🇪❤️ 😀😀\u{1f9d1}\u{1f3fd}‍🦱",
    "added tokens": "<|im_start|>user\nhi<|im_end|>\n<tool_call>{}</tool_call><think>\n</think><|fim_prefix|>",
    "U+FEFF": "\ufeffa \ufeff b\ufeff\ufeff \ufeff\n",
    "U+0085": "a\u0085b \u0085 \u0085\u0085c\n\u0085\n",
    "a letter new in Unicode 16": "\ua7da\ua7dax \u{105c0}\u{105c1} 'x",
    "a letter new in Unicode 17, which the oracle does not know": "\u088fx \u{10940} \u{11de0}1",
    "long s in a contraction": "'\u017fa 'S '\u212a it'\u017f",
    "decomposed accents": "cafe\u0301 A\u030a\u0327 \u1100\u1161\u11a8 \u212b\u0958 <\u0338",
    NUL: "a\0b\0",
  };
  for (const [what, text] of Object.entries(examples)) {
    test(`${name}: ids of ${what} are those of tokenizers`, async (t) => {
      t.deepEqual(ours.encode(text, { specialTokens: true }), await oracleIds(oracle, text));
      t.deepEqual(ours.encode(text), await oracleIds(plainOracle, text));
    });
  }

  test(`${name}: ids of random text are those of tokenizers, and decode to its NFC`, async (t) => {
    const property = fc.asyncProperty(anyText, async (text) => {
      const ids = ours.encode(text, { specialTokens: true });
      t.deepEqual(ids, await oracleIds(oracle, text));
      t.deepEqual(ours.encode(text), await oracleIds(plainOracle, text));
      t.is(ours.decode(ids), await oracle.decode(ids, true));
      t.is(ours.decode(ids, { specialTokens: true }), await oracle.decode(ids, false));
      t.is(ours.decode(ours.encode(text)), oracle.getNormalizer()!.normalizeString(text));
    });
    await fc.assert(property, { numRuns: 500 });
  });

  test(`${name}: any ids decode as in tokenizers, bytes that are not UTF-8 too`, async (t) => {
    const ids = fc.array(fc.oneof(fc.nat(300), fc.nat(ours.vocabSize + 100)), { maxLength: 12 });
    const property = fc.asyncProperty(ids, async (ids) => {
      t.is(ours.decode(ids), await oracle.decode(ids, true));
      t.is(ours.decode(ids, { specialTokens: true }), await oracle.decode(ids, false));
    });
    await fc.assert(property, { numRuns: 300 });
  });
}

test("special tokens are matched on request, other added tokens always", (t) => {
  t.is(qwen2_5.vocabSize, 151_665);
  t.is(qwen2_5.specialTokens.get("<|im_end|>"), 151_645);
  t.deepEqual(qwen2_5.encode("<|im_end|>", { specialTokens: true }), [151_645]);
  t.false(qwen2_5.encode("a<|im_end|>b").some((id) => id >= 151_643));
  t.is(qwen2_5.specialTokens.get("<tool_call>"), undefined);
  t.deepEqual(qwen2_5.encode("<tool_call>"), [151_657]);
});

test("the folder's configuration is read", (t) => {
  t.is(qwen2_5.config.eosToken, "<|im_end|>");
  t.is(qwen2_5.config.bosToken, undefined);
  t.regex(qwen2_5.config.chatTemplate!, /im_start/);
});

test("a character may be split over tokens: a part of it decodes to U+FFFD", (t) => {
  const ids = qwen2_5.encode("😀\u{1fae8}");
  t.is(qwen2_5.decode(ids), "😀\u{1fae8}");
  t.is(qwen2_5.decode(ids.slice(0, -1)), "😀\ufffd");
});

test("lone surrogates are U+FFFD", (t) => {
  t.deepEqual(qwen2_5.encode("a\ud83d b\ude00\ud83d"), qwen2_5.encode("a\ufffd b\ufffd\ufffd"));
});

test("long words have the ids of tokenizers", async (t) => {
  for (const word of ["ab".repeat(150), "banana".repeat(100), "的一是不了人我在有他这".repeat(40), "=".repeat(1000)]) {
    t.deepEqual(qwen2_5.encode(word), await oracleIds(oracle2_5, word));
  }
});

test("a word of 300,000 letters does not take quadratic time", (t) => {
  t.is(qwen2_5.encode("a".repeat(300_000)).length, 300_000 / 8);
});

test("more distinct words than the cache holds have the ids of tokenizers", async (t) => {
  const words = Array.from(
    { length: 90_000 },
    (_, i) => ` ${(i * 7919).toString(26).replace(/\d/g, (d) => "qrstuvwxyz"[+d])}`,
  );
  t.true(new Set(words).size > 1 << 16);
  t.deepEqual(qwen2_5.encode(words.join("")), await oracleIds(oracle2_5, words.join("")));
});
