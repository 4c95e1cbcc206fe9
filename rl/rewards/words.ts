/**
 * English words that say little of what a text is about. Question words stay: "how long" and "where" tell questions
 * apart.
 */
const STOP_WORDS = new Set(
  `a an and are as at be been but by can could did do does for from had has have hello hi if in into is it its just may me
  might my not of okay on or our please shall should so some than thank thanks that the their them then there these they
  this those to us was we were will with would you your`.split(/\s+/),
);

/** The words of a text in order, lower case: runs of letters and digits, each Han character on its own. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/\p{Script=Han}|(?:(?!\p{Script=Han})[\p{L}\p{N}])+/gu) ?? [];
}

/** `wordsOf` without stop words and plural s, so that "movements" meets "movement" (and "gastritis" stays). */
export function contentWords(text: string): string[] {
  return wordsOf(text)
    .filter((word) => !STOP_WORDS.has(word))
    .map((word) => word.replace(/(?<=..[^isu])s$/, ""));
}

/** How much a word tells, 0 or more. */
export type WordWeight = (word: string) => number;

/** ln((1 + N) / (1 + n)) for a word in n of the N texts: 0 where all have it. */
export function inverseDocumentFrequency(texts: readonly string[]): WordWeight {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const word of new Set(contentWords(text))) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return (word) => Math.log((1 + texts.length) / (1 + (counts.get(word) ?? 0)));
}

/** How often each word occurs. */
export function countWords(words: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}
