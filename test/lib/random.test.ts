import test from "ava";
import { InputError } from "../../lib/errors.js";
import { type Key, noiseKey, philox, randomStream, sampleGumbel, seedKey } from "../../lib/random.js";

function words(counter: number[], key: number[]): string {
  const out = new Uint32Array(4);
  philox(counter, key, out);
  return Array.from(out, (word) => word.toString(16).padStart(8, "0")).join(" ");
}

/** Σ (observed − expected)² / expected; its mean is the number of free bins, its deviation √(2·bins). */
function chiSquare(observed: ArrayLike<number>, expected: readonly number[]): number {
  return expected.reduce((sum, e, i) => sum + (observed[i] - e) ** 2 / e, 0);
}

function mean(values: ArrayLike<number>): number {
  return Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
}

const knownAnswers: [name: string, counter: number[], key: number[], words: string][] = [
  ["zeros", [0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
  ["ones", new Array(4).fill(0xffffffff), [0xffffffff, 0xffffffff], "408f276d 41c83b0e a20bc7c6 6d5451fd"],
  [
    "digits of pi",
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    "d16cfe09 94fdcceb 5001e420 24126ea1",
  ],
];
for (const [name, counter, key, expected] of knownAnswers) {
  test(`philox4x32-10 gives Random123's known answer: ${name}`, (t) => t.is(words(counter, key), expected));
}

/** Philox as its paper writes it, in 64-bit arithmetic. */
function philoxByBigInt(counter: number[], key: number[]): string {
  let c = counter.map(BigInt);
  let [k0, k1] = key.map(BigInt);
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [c[0] * 0xd2511f53n, c[2] * 0xcd9e8d57n];
    c = [(p1 >> 32n) ^ c[1] ^ k0, p1, (p0 >> 32n) ^ c[3] ^ k1, p0].map((x) => BigInt.asUintN(32, x));
    [k0, k1] = [BigInt.asUintN(32, k0 + 0x9e3779b9n), BigInt.asUintN(32, k1 + 0xbb67ae85n)];
  }
  return c.map((word) => word.toString(16).padStart(8, "0")).join(" ");
}

test("philox equals the paper's 64-bit arithmetic on any words", (t) => {
  const random = randomStream(1);
  for (let i = 0; i < 300; i++) {
    const [a, b, c, d, k0, k1] = Array.from({ length: 6 }, () => random.word());
    t.is(words([a, b, c, d], [k0, k1]), philoxByBigInt([a, b, c, d], [k0, k1]));
  }
});

test("a seed becomes its 64 bits, low word first; other numbers are refused", (t) => {
  t.deepEqual(seedKey(0), [0, 0]);
  t.deepEqual(seedKey(0x1_2345_6789), [0x23456789, 1]);
  t.deepEqual(seedKey(0x89abcdef_01234567n), [0x01234567, 0x89abcdef]);
  t.deepEqual(seedKey(-1), [0xffffffff, 0xffffffff]);
  t.deepEqual(seedKey(-1n), [0xffffffff, 0xffffffff]);
  t.throws(() => seedKey(0.5), { instanceOf: InputError, message: /seed 0\.5/ });
  t.throws(() => seedKey(2 ** 53), { instanceOf: InputError });
});

test("uniform fills [0, 1) evenly and never leaves it; positive fills (0, 1]", (t) => {
  const random = randomStream(2);
  const bins = new Array(100).fill(0);
  const draws = 100_000;
  for (let i = 0; i < draws; i++) bins[Math.floor(random.uniform() * 100)]++;
  const chi = chiSquare(bins, new Array(100).fill(draws / 100));
  t.true(chi > 50 && chi < 165, `chi-square ${chi} with 99 degrees of freedom`);
  const positive = Array.from({ length: 10_000 }, () => random.positive());
  t.true(positive.every((x) => x > 0 && x <= 1));
  t.true(Math.abs(mean(positive) - 0.5) < 0.015);
});

test("normal has the moments of the normal distribution, and its tails", (t) => {
  const random = randomStream(3);
  const draws = Float64Array.from({ length: 100_000 }, () => random.normal());
  const moment = (k: number) => mean(draws.map((x) => x ** k));
  t.true(Math.abs(moment(1)) < 0.015);
  t.true(Math.abs(moment(2) - 1) < 0.02);
  t.true(Math.abs(moment(3)) < 0.05);
  t.true(Math.abs(moment(4) - 3) < 0.15);
  t.true(Math.abs(mean(draws.map((x) => (Math.abs(x) > 1.96 ? 1 : 0))) - 0.05) < 0.004);
});

test("int is even over 0 … n−1 and refuses what it cannot do", (t) => {
  const random = randomStream(4);
  const counts = new Array(7).fill(0);
  for (let i = 0; i < 70_000; i++) counts[random.int(7)]++;
  t.true(chiSquare(counts, new Array(7).fill(10_000)) < 27);
  // Plain remainders of 32 bits would put half of the draws below 3·2³⁰ into its first third.
  const large = Array.from({ length: 3000 }, () => random.int(3 * 2 ** 30));
  t.true(Math.abs(mean(large.map((x) => (x < 2 ** 30 ? 1 : 0))) - 1 / 3) < 0.05);
  t.is(random.int(1), 0);
  t.true(random.int(2 ** 32) < 2 ** 32);
  for (const n of [0, -1, 1.5, 2 ** 33, Number.NaN]) t.throws(() => random.int(n), { message: /int/ });
});

test("shuffle gives every order equally often, in place; pick takes an element", (t) => {
  const random = randomStream(5);
  const counts = new Map<string, number>();
  for (let i = 0; i < 24_000; i++) {
    const array = ["a", "b", "c", "d"];
    t.is(random.shuffle(array), array);
    counts.set(array.join(""), (counts.get(array.join("")) ?? 0) + 1);
  }
  t.is(counts.size, 24);
  t.true(chiSquare([...counts.values()], new Array(24).fill(1000)) < 60);
  t.true(["x", "y"].includes(random.pick(["x", "y"])));
  t.throws(() => random.pick([]), { message: /empty/ });
});

test("a stream is its seed and path: the same again, another for any difference", (t) => {
  const first = (...args: Parameters<typeof randomStream>) => randomStream(...args).word();
  t.is(first(9, 1, 2), first(9, 1, 2));
  t.is(first(9n, 1), first(9, 1));
  t.is(first(seedKey(9), 1), first(9, 1));
  const others = [first(9), first(8), first(9, 0), first(9, 0, 0), first(9, 1), first(9, 1, 2), first(9, 2, 1)];
  others.push(first(9, 2 ** 32), first(9, -1), first(9, 1, 2, 0));
  t.is(new Set(others).size, others.length);
});

test("the noise key is the first two words of philox at (step, task, sample·2¹⁶ + turn, position)", (t) => {
  const seed: Key = [11, 22];
  const [k0, k1] = words([3, 4, 5 * 65536 + 6, 7], [11, 22]).split(" ");
  t.deepEqual(noiseKey(seed, { step: 3, task: 4, sample: 5, turn: 6, position: 7 }), [
    Number.parseInt(k0, 16),
    Number.parseInt(k1, 16),
  ]);
  t.throws(() => noiseKey(seed, { step: 0, task: 0, sample: 65536, turn: 0, position: 0 }), { message: /65536/ });
});

function softmax(logits: ArrayLike<number>, temperature: number): number[] {
  const weights = Array.from(logits, (logit) => Math.exp(logit / temperature));
  const total = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / total);
}

for (const temperature of [0.7, 1, 2]) {
  test(`sampled frequencies are softmax(logits / ${temperature})`, (t) => {
    const logits = Float32Array.from([0.3, -1, 2, 1.9, -2.5, 0, 1, 0.5, -0.5]);
    const counts = new Array(logits.length).fill(0);
    const draws = 60_000;
    for (let position = 0; position < draws; position++) {
      const key = noiseKey([6, 0], { step: 0, task: 0, sample: 0, turn: 0, position });
      counts[sampleGumbel(logits, 0, logits.length, temperature, key)]++;
    }
    const expected = softmax(logits, temperature).map((p) => p * draws);
    t.true(chiSquare(counts, expected) < 30, `${chiSquare(counts, expected)} with 8 degrees of freedom`);
  });
}

/** The definition of `sampleGumbel`, without its short cuts. */
function sampleByDefinition(logits: Float32Array, temperature: number, key: Key): number {
  const out = new Uint32Array(4);
  let [best, token] = [Number.NEGATIVE_INFINITY, -1];
  logits.forEach((logit, id) => {
    philox([id >> 2, 0, 0, 0], key, out);
    const score = logit / temperature - Math.log(-Math.log(1 - (out[id & 3] + 0.5) / 2 ** 32));
    if (score > best) [best, token] = [score, id];
  });
  return token;
}

test("the short cuts of sampling change no draw, for flat, peaked and masked rows", (t) => {
  const random = randomStream(7);
  for (let i = 0; i < 400; i++) {
    const spread = [0, 1, 5, 30][i % 4];
    const logits = Float32Array.from({ length: 203 }, () => spread * random.normal());
    if (i % 3 === 0) logits.fill(Number.NEGATIVE_INFINITY, 5, 150);
    const key: Key = [random.word(), random.word()];
    t.is(sampleGumbel(logits, 0, logits.length, 0.9, key), sampleByDefinition(logits, 0.9, key));
  }
});

test("a draw does not depend on where the row lies or how many rows there are", (t) => {
  const random = randomStream(8);
  const row = Float32Array.from({ length: 50 }, () => random.normal());
  const batch = new Float32Array(200).map(() => random.normal());
  batch.set(row, 100);
  for (let i = 0; i < 100; i++) {
    const key: Key = [i, 0];
    t.is(sampleGumbel(batch, 100, 50, 1, key), sampleGumbel(row, 0, 50, 1, key));
  }
});

test("temperature 0 takes the largest logit, the first of equals", (t) => {
  t.is(sampleGumbel(Float32Array.from([1, 3, 2, 3]), 0, 4, 0, [0, 0]), 1);
  t.is(sampleGumbel(Float32Array.from([9, 1, 3, 2]), 1, 3, 0, [0, 0]), 1);
});

test("rows that no token can be drawn from are refused, not guessed", (t) => {
  const draw = (logits: number[], temperature = 1) =>
    sampleGumbel(Float32Array.from(logits), 0, 2, temperature, [0, 0]);
  t.throws(() => draw([0, Number.NaN]), { message: /token 1 is NaN/ });
  t.throws(() => draw([Number.POSITIVE_INFINITY, 0], 0), { message: /token 0 is Infinity/ });
  t.throws(() => draw([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]), { message: /none of 2/ });
  t.throws(() => draw([0, 0], -1), { message: /temperature -1/ });
});
