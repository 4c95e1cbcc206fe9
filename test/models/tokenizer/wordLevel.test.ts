import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import fc from "fast-check";
import { loadTokenizer, wordLevelTokenizer } from "../../../models/tokenizer/index.js";
import { Oracle, oracleIds } from "./oracle.js";

const words = ["which", "colour", "?", "so", "pick", "red", "blue", "1", "__proto__", "constructor", "龘"];
const specialTokens = ["<unk>", "<user>", "<assistant>", "<end>"];
const tokenizer = wordLevelTokenizer({ words, specialTokens, unknown: "<unk>", config: { eosToken: "<end>" } });

test("ids are special tokens first, then words; decoding joins with blanks", (t) => {
  t.is(tokenizer.vocabSize, specialTokens.length + words.length);
  t.deepEqual([...tokenizer.specialTokens.values()], [0, 1, 2, 3]);
  t.deepEqual(tokenizer.encode("  which colour\n? "), [4, 5, 6]);
  t.deepEqual(tokenizer.encode("<user>so<end>", { specialTokens: true }), [1, 7, 3]);
  t.is(tokenizer.decode([1, 4, 5, 6, 3]), "which colour ?");
  t.is(tokenizer.decode([1, 4, 5, 6, 3, 99], { specialTokens: true }), "<user> which colour ? <end>");
});

test("what is not in the list is the unknown token, a special token typed by a user too", (t) => {
  t.deepEqual(tokenizer.encode("green toString <end> pick"), [0, 0, 0, 8]);
});

test("the saved folder loads here and in tokenizers with the same ids", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "itpo-"));
  await tokenizer.save(directory);
  const loaded = await loadTokenizer(directory);
  const oracle = Oracle.fromFile(join(directory, "tokenizer.json"));
  await rm(directory, { recursive: true });
  t.is(loaded.config.eosToken, "<end>");
  t.is(loaded.config.unkToken, "<unk>");
  const part = fc.constantFrom(
    ...words,
    ...specialTokens,
    "green",
    " ",
    " ",
    "\u0085",
    "\ufeff",
    "\u3000",
    "\n",
    "<en",
  );
  const property = fc.asyncProperty(fc.array(part), async (parts) => {
    const text = parts.join("");
    const ids = await oracleIds(oracle, text);
    t.deepEqual(loaded.encode(text, { specialTokens: true }), ids);
    t.deepEqual(tokenizer.encode(text, { specialTokens: true }), ids);
    t.is(loaded.decode(ids), await oracle.decode(ids, true));
    t.is(loaded.decode(ids, { specialTokens: true }), await oracle.decode(ids, false));
    t.deepEqual(loaded.encode(text), tokenizer.encode(text));
  });
  await fc.assert(property, { numRuns: 300 });
});

test("word lists that cannot work are refused", (t) => {
  const refuse = (list: string[], message: RegExp, unknown = "<unk>") =>
    t.throws(() => wordLevelTokenizer({ words: list, specialTokens, unknown }), { name: "InputError", message });
  refuse(["a", "b", "a"], /"a" occurs twice/);
  refuse(["<end>"], /"<end>" occurs twice/);
  refuse(["a b"], /"a b" is empty or has white space/);
  refuse([""], /"" is empty/);
  refuse(["a"], /unk_token <none> is not in/, "<none>");
});
