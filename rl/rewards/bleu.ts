const ORDERS = 4;

/**
 * Sentence BLEU of two texts on characters, in [0, 1]: geometric mean of the clipped n-gram precisions for n = 1 to 4,
 * times the brevity penalty exp(1 − r/c). Case and white space count. Where no n-gram of an order matches, the smallest
 * normal number stands in, as in NLTK, and the result is 0 but for rounding. Papineni et al. 2002.
 */
export function bleu(hypothesis: string, reference: string): number {
  const [given, truth] = [[...hypothesis], [...reference]];
  if (given.length === 0) return 0;
  let logs = 0;
  for (let n = 1; n <= ORDERS; n++) {
    const [ours, theirs] = [ngrams(given, n), ngrams(truth, n)];
    let matches = 0;
    for (const [gram, count] of ours) matches += Math.min(count, theirs.get(gram) ?? 0);
    if (n === 1 && matches === 0) return 0;
    const precision = matches / Math.max(1, given.length - n + 1);
    logs += Math.log(precision || SMALLEST) / ORDERS;
  }
  const brevity = given.length < truth.length ? 1 - truth.length / given.length : 0;
  return Math.exp(logs + brevity);
}

const SMALLEST = 2.2250738585072014e-308;

function ngrams(characters: readonly string[], n: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= characters.length; i++) {
    const gram = characters.slice(i, i + n).join("");
    counts.set(gram, (counts.get(gram) ?? 0) + 1);
  }
  return counts;
}
