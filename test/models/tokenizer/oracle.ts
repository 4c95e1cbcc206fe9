import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { Tokenizer as Oracle } from "tokenizers";

export { Oracle };

/** Ids of `text` in Hugging Face's tokenizers; it matches special tokens in a text always. */
export async function oracleIds(oracle: Oracle, text: string): Promise<number[]> {
  return (await oracle.encode(text, null, { addSpecialTokens: false })).getIds();
}

/** The oracle with special tokens off: their texts are replaced by ones that no test text has. */
export function withoutSpecialTokens(directory: string): Oracle {
  const json = JSON.parse(readFileSync(join(directory, "tokenizer.json"), "utf8"));
  for (const token of json.added_tokens) if (token.special) token.content = `\u{10fffd}${token.id}\u{10fffd}`;
  return Oracle.fromString(JSON.stringify(json));
}

/** What a byte-level tokenizer may get wrong, in one row. */
const snippets = [
  ..." \t\r\n\v\f\u0085\u00a0\u2028\u3000\ufeff\u200b",
  "  ",
  "\n\n",
  "\r\n",
  ...["'s", "'T", "'re", "'VE", "'m", "'ll", "'D", "'\u017f", "'", "''", "’s", "'l", "'r", "'n"],
  ...["Hello", "world", "don't", "I'LL", "naïve", "x1", "2024", "3.14", "1,000", "½", "Ⅷ", "²", "٣"],
  ...["你好", "世界。", "，", "「日本語」", "カタカナ", "한국어", "ไทย", "हिन्दी", "العربية", "Привет"],
  ...["😀", "👩‍🚀", "🇩🇪", "❤️", "\u{1f9d1}\u{1f3fd}"],
  ...[
    "e\u0301",
    "\u0301",
    "\u0327\u0301",
    "\u0345\u0334",
    "A\u030a",
    "\u212b",
    "\u0958",
    "\u1100\u1161\u11a8",
    "가\u11a8",
  ],
  ...["\u{16d63}\u{16d67}\u{16d67}", "\u{1d15e}", "\u{2f800}", "豈", ">\u0338"],
  ...["\ua7da", "\u{105c0}", "\u{1e5d0}", "\u088f", "\u{10940}", "\u{11de0}", "\u0378"],
  ...[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<|",
    "|>",
    "<tool",
  ],
  ...[
    "for (let i = 0; i < n; i++) {",
    "}\n\n\t\treturn",
    "=>",
    "===",
    "//",
    "/*",
    "_a",
    "$x",
    "\\n",
    '"',
    "#!/bin/sh\n",
  ],
  "\0",
  "\ufffd",
];

/** Text of such snippets and of any code points but surrogates. */
export const anyText = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(...snippets) },
      { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 6 }) },
      { weight: 1, arbitrary: fc.string({ unit: "grapheme", maxLength: 6 }) },
    ),
    { maxLength: 14 },
  )
  .map((parts) => parts.join(""));
