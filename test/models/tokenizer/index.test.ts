import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { byteToChar } from "../../../models/tokenizer/byteLevel.js";
import { loadTokenizer } from "../../../models/tokenizer/index.js";
import { GPT2_PATTERN, QWEN_PATTERN } from "../../../models/tokenizer/pretokenize.js";
import { fixture } from "../../support.js";
import { Oracle, oracleIds } from "./oracle.js";

// biome-ignore lint/suspicious/noExplicitAny: free-form JSON, broken on purpose
type Json = Record<string, any>;

/** A small tokenizer.json of Qwen's kind. */
function qwenJson(): Json {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  const split = { type: "Split", pattern: { Regex: QWEN_PATTERN }, behavior: "Isolated", invert: false };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return {
    version: "1.0",
    added_tokens: [
      { id: 259, content: "<end>", special: true, ...flags },
      { id: 260, content: "<tool>", special: false, ...flags },
    ],
    normalizer: { type: "NFC" },
    pre_tokenizer: { type: "Sequence", pretokenizers: [split, byteLevel] },
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      vocab: Object.fromEntries([...byteToChar, "he", "ll", "hell"].map((token, id) => [token, id])),
      merges: ["h e", "l l", "he ll"],
    },
  };
}

async function folder<T>(files: Record<string, string>, body: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "itpo-"));
  try {
    for (const [name, content] of Object.entries(files)) await writeFile(join(directory, name), content);
    return await body(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

const load = (json: Json) => folder({ "tokenizer.json": JSON.stringify(json) }, loadTokenizer);

const accepted: Record<string, (json: Json) => void> = {
  "merges as pairs": (json) => {
    json.model.merges = json.model.merges.map((merge: string) => merge.split(" "));
  },
  "no normalizer": (json) => {
    json.normalizer = null;
  },
  "a Sequence of NFC": (json) => {
    json.normalizer = { type: "Sequence", normalizers: [{ type: "NFC" }] };
  },
  "GPT-2's ByteLevel with its own regular expression": (json) => {
    json.pre_tokenizer = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  },
  "GPT-2's regular expression spelled out": (json) => {
    json.pre_tokenizer.pretokenizers[0].pattern.Regex = GPT2_PATTERN;
  },
  "an added token matched in normalized text": (json) => {
    json.added_tokens[1] = { ...json.added_tokens[1], normalized: true, content: "é;" };
  },
  "an added token that is the beginning of another": (json) => {
    json.added_tokens.push({ ...json.added_tokens[1], id: 261, content: "<tool>s" });
  },
  "merges whose results have lower ids, or ranks, than their parts": (json) => {
    json.model.merges = ["he l", "h e", "l l", "hel l", "he ll"];
    json.model.vocab.hel = 259;
    for (const token of json.added_tokens) token.id++;
  },
};
for (const [what, change] of Object.entries(accepted)) {
  test(`${what}: the ids are those of tokenizers`, async (t) => {
    const json = qwenJson();
    change(json);
    const ours = await load(json);
    const oracle = Oracle.fromString(JSON.stringify(json));
    const texts = [
      "hello hell shell  he'll HE'LL it's\n\n x 123 45 <tool> <end> é; e\u0301; \u212b <tool>\u0338 <tool>st",
      "a  b\t c\r\n  \n d   ",
      "hello".repeat(60),
      "1½२ 你好，世界 \u0085\u0085x \ufeffx ''re're",
    ];
    for (const text of texts) t.deepEqual(ours.encode(text, { specialTokens: true }), await oracleIds(oracle, text));
  });
}

const refused: Record<string, [change: (json: Json) => void, message: RegExp]> = {
  "a Unigram model": [
    (json) => (json.model = { type: "Unigram", vocab: [["a", 0]] }),
    /model type Unigram is not supported/,
  ],
  "a WordPiece model": [
    (json) => (json.model = { type: "WordPiece", vocab: { a: 0 } }),
    /type WordPiece is not supported/,
  ],
  "no model": [(json) => delete json.model, /has no model/],
  "a model without type": [(json) => delete json.model.type, /model has no type/],
  "another normalizer": [(json) => (json.normalizer = { type: "Lowercase" }), /normalizer Lowercase is not supported/],
  "no pre-tokenizer": [(json) => (json.pre_tokenizer = null), /pre_tokenizer none is not supported/],
  "another pre-tokenizer": [(json) => (json.pre_tokenizer = { type: "Metaspace" }), /pre_tokenizer Metaspace is not/],
  "another pattern": [
    (json) => (json.pre_tokenizer.pretokenizers[0].pattern = { Regex: "\\p{L}" }),
    /which is not supported/,
  ],
  "another behaviour": [(json) => (json.pre_tokenizer.pretokenizers[0].behavior = "Removed"), /not supported/],
  "a prefix space": [(json) => (json.pre_tokenizer.pretokenizers[1].add_prefix_space = true), /add_prefix_space/],
  "another decoder": [(json) => (json.decoder = { type: "Metaspace" }), /decoder Metaspace is not supported/],
  "no decoder": [(json) => (json.decoder = null), /decoder none is not supported/],
  dropout: [(json) => (json.model.dropout = 0.1), /model.dropout/],
  "byte fallback": [(json) => (json.model.byte_fallback = true), /model.byte_fallback/],
  "a missing byte": [(json) => delete json.model.vocab.A, /lacks byte 65/],
  "no vocabulary": [(json) => delete json.model.vocab, /vocab is not an object/],
  "a vocabulary that is a list": [(json) => (json.model.vocab = ["a"]), /vocab is not an object/],
  "an id that is none": [(json) => (json.model.vocab.A = -1), /vocab\["A"\] is not a token id/],
  "an id as text": [(json) => (json.model.vocab.A = "65"), /vocab\["A"\] is not a token id/],
  "an id given twice": [(json) => (json.model.vocab.A = 66), /id 66 to two tokens/],
  "no merges": [(json) => delete json.model.merges, /merges is not a list/],
  "a merge of three": [(json) => json.model.merges.push("h e ll"), /merges\[3\] is "h e ll", not two tokens/],
  "a merge that is a number": [(json) => json.model.merges.push(7), /merges\[3\] is 7, not two tokens/],
  "a merge of no token": [(json) => json.model.merges.push("x yz"), /merges\[3\]/],
  "a merge into no token": [(json) => json.model.merges.push("x y"), /merges\[3\]/],
  "a merge into a special token": [
    (json) => {
      json.model.vocab["<e"] = 261;
      json.model.merges.push("< e");
      json.added_tokens[0].id = 261;
    },
    /makes a special token out of plain text/,
  ],
  "added tokens that are no list": [(json) => (json.added_tokens = {}), /added_tokens is not a list/],
  "an added token without content": [(json) => (json.added_tokens[0].content = ""), /without id or content/],
  "an added token with a used id": [
    (json) => (json.added_tokens[1].id = 259),
    /added_tokens gives id 259 to two tokens/,
  ],
  "an added token with another id than in the vocabulary": [
    (json) => (json.added_tokens[1].content = "hell"),
    /added token hell has another id in model.vocab/,
  ],
  "a stripping added token": [(json) => (json.added_tokens[1].lstrip = true), /<tool>: lstrip is not supported/],
  "a word-level model with a decoder": [
    (json) => {
      json.model = { type: "WordLevel", vocab: { a: 0 }, unk_token: "a" };
      json.normalizer = null;
      json.pre_tokenizer = { type: "WhitespaceSplit" };
    },
    /decoder ByteLevel is not supported for WordLevel/,
  ],
};
for (const [what, [change, message]] of Object.entries(refused)) {
  test(`${what} is refused with an InputError that names the file and the problem`, async (t) => {
    const json = qwenJson();
    change(json);
    const error = await t.throwsAsync(load(json), { name: "InputError", message });
    t.regex(error.message, /tokenizer\.json: /);
    t.notRegex(error.message, /\n/);
  });
}

const brokenFiles: Record<string, [files: Record<string, string>, message: RegExp]> = {
  "an empty folder": [{}, /has neither tokenizer.json nor tokenizer.model/],
  "broken JSON": [{ "tokenizer.json": '{"model":\n x' }, /tokenizer.json: not valid JSON .* download it again$/],
  "JSON that is no object": [{ "tokenizer.json": "[]" }, /not a JSON object/],
  "a broken tokenizer_config.json": [
    { "tokenizer.json": JSON.stringify(qwenJson()), "tokenizer_config.json": "{" },
    /tokenizer_config.json: not valid JSON/,
  ],
};
for (const [what, [files, message]] of Object.entries(brokenFiles)) {
  test(`${what} is an InputError`, async (t) => {
    await t.throwsAsync(folder(files, loadTokenizer), { name: "InputError", message });
  });
}

test("a folder that does not exist is an InputError", async (t) => {
  await t.throwsAsync(loadTokenizer(fixture("nowhere")), { name: "InputError", message: /nowhere: no such folder/ });
});

test("the configuration is read from tokenizer_config.json and chat_template.jinja, and saved with the rest", async (t) => {
  const read = async (config: object, more: Record<string, string> = {}) => {
    const tokenizer = await folder(
      { "tokenizer.json": JSON.stringify(qwenJson()), "tokenizer_config.json": JSON.stringify(config), ...more },
      loadTokenizer,
    );
    const again = await folder({}, async (directory) => {
      await tokenizer.save(directory);
      return loadTokenizer(directory);
    });
    t.deepEqual(again.config, tokenizer.config);
    return tokenizer.config;
  };
  t.is((await read({ chat_template: "one" })).chatTemplate, "one");
  t.is((await read({ chat_template: "one" }, { "chat_template.jinja": "two" })).chatTemplate, "two");
  const list = [
    { name: "tool_use", template: "tools" },
    { name: "default", template: "three" },
  ];
  t.is((await read({ chat_template: list })).chatTemplate, "three");
  t.is((await read({ eos_token: { content: "<end>", lstrip: false } })).eosToken, "<end>");
  t.is((await read({ eos_token: "<end>", bos_token: null })).eosToken, "<end>");
  t.is((await read({})).chatTemplate, undefined);
});
