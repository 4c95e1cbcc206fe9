import test from "ava";
import fc from "fast-check";
import { fastExp } from "../../lib/exp.js";
import { checkSampling, InputError, lowestKept, type Sampling, sampleGumbel } from "../../lib/index.js";

/** Which tokens the filters keep, word by word from their definition, with every sum taken anew. */
function keptByDefinition(
  logits: readonly number[],
  { temperature, topK = 0, topP = 1, minP = 0 }: Sampling,
): boolean[] {
  const largest = Math.max(...logits);
  const scaled = logits.map((logit) => (logit - largest) / temperature);
  const rank = logits.toSorted((a, b) => b - a);
  let kept = logits.map((logit) => topK === 0 || topK >= logits.length || logit >= rank[topK - 1]);
  const mass = (among: readonly boolean[]) =>
    scaled.reduce((sum, x, i) => (among[i] ? sum + Math.floor(2 ** 35 * fastExp(x)) : sum), 0);
  if (topP < 1) {
    const total = mass(kept);
    const threshold = rank.find((least) => mass(kept.map((is, i) => is && logits[i] >= least)) >= topP * total)!;
    kept = kept.map((is, i) => is && logits[i] >= threshold);
  }
  return kept.map((is, i) => is && (minP === 0 || scaled[i] >= Math.log(minP)));
}

/** Few different values, so that ties are frequent; some at −∞, but never all. */
const row = fc
  .array(
    fc.oneof(
      fc.integer({ min: -6, max: 6 }),
      fc.constant(Number.NEGATIVE_INFINITY),
      fc.float({ min: -9, max: 9, noNaN: true }),
    ),
    {
      minLength: 1,
      maxLength: 24,
    },
  )
  .filter((logits) => logits.some(Number.isFinite))
  .map((logits) => logits.map(Math.fround));

const sampling: fc.Arbitrary<Sampling> = fc.record({
  temperature: fc.constantFrom(0.3, 1, 1.7),
  topK: fc.option(fc.nat(30), { nil: undefined }),
  topP: fc.option(fc.constantFrom(1e-9, 0.1, 0.37, 0.5, 0.9, 0.999999, 1), { nil: undefined }),
  minP: fc.option(fc.constantFrom(0, 1e-9, 0.05, 0.3, 1), { nil: undefined }),
});

test("the filters keep what their definition keeps, in a row among others", (t) => {
  const property = fc.property(row, sampling, (logits, filters) => {
    const batch = Float32Array.from([99, ...logits, 99]);
    const lowest = lowestKept(batch, 1, logits.length, filters);
    t.deepEqual(
      logits.map((logit) => logit >= lowest),
      keptByDefinition(logits, filters),
    );
    t.deepEqual([...batch.slice(1, -1)], logits);
  });
  fc.assert(property, { numRuns: 3000 });
});

test("equal tokens are kept together, and the most likely one always", (t) => {
  const kept = (logits: number[], filters: Omit<Sampling, "temperature">) => {
    const lowest = lowestKept(Float32Array.from(logits), 0, logits.length, { temperature: 1, ...filters });
    return logits.flatMap((logit, id) => (logit >= lowest ? [id] : []));
  };
  t.deepEqual(kept([1, 2, 2, 0], { topK: 1 }), [1, 2]);
  t.deepEqual(kept([1, 2, 2, 0], { topK: 3 }), [0, 1, 2]);
  t.deepEqual(kept([1, 2, 2, 0], { topK: 9 }), [0, 1, 2, 3]);
  t.deepEqual(kept([0, 0, 0, 0], { topP: 0.01 }), [0, 1, 2, 3]);
  t.deepEqual(kept([5, 0, 0, 0], { topP: 1e-12 }), [0]);
  t.deepEqual(kept([5, 5, 4.5, 0], { minP: 1 }), [0, 1]);
  // Top-p is of what top-k kept: of 1/3 and 2/3, not of 1/6, 2/6 and 3 × 1/6.
  const thirds = [0, Math.LN2, -0.001, -0.001, -0.001].map(Math.fround);
  t.deepEqual(kept(thirds, { topK: 2, topP: 0.6 }), [1]);
  t.deepEqual(kept(thirds, { topP: 0.6 }), [0, 1, 2, 3, 4]);
  t.deepEqual(kept([Number.NEGATIVE_INFINITY, 0, -1], { topK: 3, topP: 0.99 }), [1, 2]);
});

test("a draw is the best of the kept tokens, each with the noise that it has without filters", (t) => {
  const property = fc.property(row, sampling, fc.nat(), (logits, filters, seed) => {
    const values = Float32Array.from(logits);
    const lowest = lowestKept(values, 0, logits.length, filters);
    const masked = values.map((logit) => (logit >= lowest ? logit : Number.NEGATIVE_INFINITY));
    const { temperature } = filters;
    t.is(
      sampleGumbel(values, 0, logits.length, temperature, [seed, 7], lowest),
      sampleGumbel(masked, 0, logits.length, temperature, [seed, 7]),
    );
  });
  fc.assert(property, { numRuns: 1000 });
});

test("greedy decoding needs no filter", (t) => {
  t.is(
    lowestKept(Float32Array.of(1, 2), 0, 2, { temperature: 0, topK: 1, topP: 0.1, minP: 1 }),
    Number.NEGATIVE_INFINITY,
  );
});

test("values out of range are refused by name", (t) => {
  for (const [name, values] of Object.entries({
    temperature: [-0.1, Number.NaN, Number.POSITIVE_INFINITY],
    topK: [-1, 1.5, Number.NaN],
    topP: [0, -0.5, 1.01, Number.NaN],
    minP: [-0.1, 1.1, Number.NaN],
  })) {
    for (const value of values) {
      const message = new RegExp(`^${name} is ${value}; it must be`);
      t.throws(() => checkSampling({ temperature: 1, [name]: value }), { instanceOf: InputError, message });
    }
  }
  t.notThrows(() => checkSampling({ temperature: 0, topK: 0, topP: 1, minP: 0 }));
});
