import { contentWords, countWords, type WordWeight } from "../rewards/words.js";

/** A text as word weights of unit length; empty where it has no word that tells anything. */
export type WordVector = ReadonlyMap<string, number>;

/** The text's content words with weight (1 + ln count) · idf, as in tf-idf search, scaled to length 1. */
export function wordVector(text: string, idf: WordWeight): WordVector {
  const weights = [...countWords(contentWords(text))].map(
    ([word, n]) => [word, (1 + Math.log(n)) * idf(word)] as const,
  );
  const norm = Math.hypot(...weights.map(([, weight]) => weight));
  return new Map(norm > 0 ? weights.map(([word, weight]) => [word, weight / norm]) : []);
}

/** Cosine of the angle between two texts, 0 (no word shared) to 1. */
export function cosine(a: WordVector, b: WordVector): number {
  let sum = 0;
  for (const [word, weight] of a) sum += weight * (b.get(word) ?? 0);
  return Math.min(1, sum);
}

/** The vector closest to `query` and its cosine; the first of equals. Undefined where there are none. */
export function closest(
  query: WordVector,
  vectors: readonly WordVector[],
): { index: number; score: number } | undefined {
  let best: { index: number; score: number } | undefined;
  for (const [index, vector] of vectors.entries()) {
    const score = cosine(query, vector);
    if (!best || score > best.score) best = { index, score };
  }
  return best;
}
