import { contentWords, countWords, type WordWeight } from "./words.js";

/**
 * Word overlap of two texts in [0, 1], as in SQuAD: the harmonic mean of precision and recall over content words, each
 * counted as often as both texts have it. With `weight` a word counts by what it tells, so that phrases which every
 * truth contains earn little. 0 where either text has no word of positive weight; word order does not matter.
 */
export function tokenF1(given: string, truth: string, weight: WordWeight = () => 1): number {
  const [a, b] = [given, truth].map((text) => countWords(contentWords(text)));
  let shared = 0;
  let total = 0;
  for (const [word, n] of a) {
    shared += Math.min(n, b.get(word) ?? 0) * weight(word);
    total += n * weight(word);
  }
  for (const [word, n] of b) total += n * weight(word);
  return shared > 0 ? Math.min(1, (2 * shared) / total) : 0; // Rounding can pass 1.
}
