/** Entities that the tokenizer's first users found in their texts, in the order in which they are replaced. */
const ENTITIES = [
  ["&quot;", '"'],
  ["&amp;", "&"],
  ["&lt;", "<"],
  ["&gt;", ">"],
] as const;

/**
 * The words of a text as mteval-v13a of NIST parts them, and sacreBLEU after it: at spaces, at ASCII punctuation, at
 * periods and commas unless a digit stands on both sides, and at a dash behind a digit.
 */
export function tokenize13a(text: string): string[] {
  let line = text.trimEnd().replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
  for (const [entity, char] of ENTITIES) line = line.replaceAll(entity, char);
  line = ` ${line} `
    .replace(/([{-~[-` -&(-+:-@/])/g, " $1 ")
    .replace(/([^0-9])([.,])/gu, "$1 $2 ")
    .replace(/([.,])([^0-9])/gu, " $1 $2")
    .replace(/([0-9])(-)/g, "$1 $2 ");
  return line.match(/\S+/g) ?? [];
}
