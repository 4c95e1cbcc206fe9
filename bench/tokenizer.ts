/*
 * Encoding speed beside Hugging Face's `tokenizers` (its Rust core, one text at a time on one thread), on Qwen2.5's real
 * tokenizer.json, in documents of 4,000 characters. Rounds alternate between the two; medians are printed. `first` is the
 * first round, whose words were not in either one's cache.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer as Oracle } from "tokenizers";
import { loadTokenizer } from "../models/tokenizer/index.js";
import { root } from "../test/support.js";

const ROUNDS = 9;
const DOCUMENT = 4000;

const typescript = join(root, "node_modules", "typescript", "lib");
const directory = join(root, "node_modules", "@lenml", "tokenizer-qwen2_5", "models");

const text = (...path: string[]) => readFileSync(join(typescript, ...path), "utf8");
/** The sentences of TypeScript's error messages in a language. */
const messages = (language: string) =>
  Object.values(JSON.parse(text(language, "diagnosticMessages.generated.json")) as Record<string, string>).join("\n");
/** The documentation comments of TypeScript's declarations. */
const comments = () =>
  readdirSync(typescript)
    .filter((name) => name.endsWith(".d.ts"))
    .flatMap((name) => [...text(name).matchAll(/\/\*\*(.*?)\*\//gs)])
    .map(([, comment]) => comment.replace(/^\s*\* ?/gm, "").trim())
    .join("\n\n");

const corpora = {
  English: comments(),
  Chinese: messages("zh-cn") + messages("zh-tw"),
  code: text("typescript.js").slice(0, 2_000_000),
};

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];

const ours = await loadTokenizer(directory);
const oracle = Oracle.fromFile(join(directory, "tokenizer.json"));

console.log("corpus        MB   bytes/token   ours MB/s (first)   tokenizers MB/s (first)   ratio of medians (first)");
for (const [name, corpus] of Object.entries(corpora)) {
  const documents = corpus.match(new RegExp(`[^]{1,${DOCUMENT}}`, "g"))!;
  const megabytes = Buffer.byteLength(corpus) / 1e6;
  const speeds = { ours: [] as number[], oracle: [] as number[] };
  let tokens = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    const ids: number[][] = [];
    for (const document of documents) ids.push(ours.encode(document, { specialTokens: true }));
    const middle = performance.now();
    const expected: number[][] = [];
    for (const document of documents) {
      expected.push((await oracle.encode(document, null, { addSpecialTokens: false })).getIds());
    }
    const end = performance.now();
    speeds.ours.push((megabytes * 1e3) / (middle - start));
    speeds.oracle.push((megabytes * 1e3) / (end - middle));
    if (JSON.stringify(ids) !== JSON.stringify(expected)) throw new Error(`${name}: ids differ`);
    tokens = ids.flat().length;
  }
  const [a, b] = [median(speeds.ours), median(speeds.oracle)];
  const columns = [
    name.padEnd(10),
    megabytes.toFixed(2).padStart(6),
    ((megabytes * 1e6) / tokens).toFixed(2).padStart(13),
    `${a.toFixed(1)} (${speeds.ours[0].toFixed(1)})`.padStart(19),
    `${b.toFixed(2)} (${speeds.oracle[0].toFixed(2)})`.padStart(25),
    `${(a / b).toFixed(1)} (${(speeds.ours[0] / speeds.oracle[0]).toFixed(1)})`.padStart(26),
  ];
  console.log(columns.join(""));
}
