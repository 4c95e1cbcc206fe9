import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { loadTokenizer, type Tokenizer } from "../../../models/tokenizer/index.js";
import { fixture } from "../../support.js";

const lines = (...path: string[]) =>
  readFileSync(fixture("sentencepiece", ...path), "utf8")
    .trimEnd()
    .split("\n");
const parseIds = (line: string) => line.split(" ").filter(Boolean).map(Number);

let tokenizer: Tokenizer;
test.before(async () => {
  tokenizer = await loadTokenizer(fixture("sentencepiece"));
});

for (const row of lines("expected.tsv")) {
  const [text, ids] = row.split("\t");
  test(`ids of ${JSON.stringify(text)} are those of spm_encode`, (t) => {
    t.deepEqual(tokenizer.encode(text), parseIds(ids));
    t.is(tokenizer.decode(parseIds(ids)), text);
  });
}

test("control pieces are the special tokens, and only they", (t) => {
  t.is(tokenizer.vocabSize, 700);
  t.deepEqual(Object.fromEntries(tokenizer.specialTokens), { "<s>": 1, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4 });
  const control = "<s>a</s><|im_end|>";
  t.deepEqual(
    tokenizer.encode(control).filter((id) => id <= 4),
    [],
  );
  const ids = tokenizer.encode(control, { specialTokens: true });
  t.deepEqual(ids, [1, ...tokenizer.encode("a"), 2, 4]);
  t.is(tokenizer.decode(ids), "a");
  t.is(tokenizer.decode(ids, { specialTokens: true }), control);
  t.is(tokenizer.decode([-1, ...ids, 700, 1e9]), "a");
});

test("lone surrogates are U+FFFD", (t) => {
  t.deepEqual(tokenizer.encode("a\ud800b"), tokenizer.encode("a\ufffdb"));
});

test("loading leaves no handler on the process", (t) => {
  const stacks = (event: string) => process.listeners(event as "exit").map(String);
  t.deepEqual(
    [...stacks("uncaughtException"), ...stacks("unhandledRejection")].filter((code) =>
      /ExitStatus|throw reason/.test(code),
    ),
    [],
  );
});

test("a broken model is an InputError", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "itpo-"));
  const model = readFileSync(fixture("sentencepiece", "tokenizer.model"));
  for (const content of ["", "garbage", model.subarray(0, 5000), model.subarray(0, 30)]) {
    await writeFile(join(directory, "tokenizer.model"), content);
    await t.throwsAsync(loadTokenizer(directory), { name: "InputError", message: /not a SentencePiece model/ });
  }
  await rm(directory, { recursive: true });
});

const spm = (() => {
  try {
    execFileSync("spm_encode", ["--version"]);
    return test;
  } catch {
    return test.skip;
  }
})();

spm("a unigram model trained here with NFKC gives the ids of spm_encode", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "itpo-"));
  const prefix = join(directory, "new");
  const corpus = fixture("sentencepiece", "corpus.txt");
  const options = ["--model_type=unigram", "--vocab_size=500", "--hard_vocab_limit=false", "--minloglevel=2"];
  execFileSync("spm_train", [`--input=${corpus}`, `--model_prefix=${prefix}`, ...options], { stdio: "ignore" });
  await copyFile(`${prefix}.model`, join(directory, "tokenizer.model"));
  const unigram = await loadTokenizer(directory);
  const texts = [...lines("corpus.txt"), ...lines("texts.txt"), "ﬁne Ⅷ ½ ＡＢＣ", "e\u0301\u00a0x"];
  const encoded = execFileSync("spm_encode", [`--model=${prefix}.model`, "--output_format=id"], {
    input: texts.join("\n"),
  });
  t.deepEqual(
    texts.map((text) => unigram.encode(text)),
    encoded.toString().trimEnd().split("\n").map(parseIds),
  );
  await rm(directory, { recursive: true });
});
