import { InputError } from "./errors.js";

/** A Philox key: the low and the high word of 64 bits, each 0 … 2³²−1. */
export type Key = readonly [lo: number, hi: number];

/** The key of a run's seed, modulo 2⁶⁴. @throws InputError where it is not a whole number that is held exactly. */
export function seedKey(seed: number | bigint): Key {
  if (typeof seed === "bigint") return [Number(BigInt.asUintN(32, seed)), Number(BigInt.asUintN(32, seed >> 32n))];
  if (!Number.isSafeInteger(seed)) throw new InputError(`seed ${seed} is not a whole number below 2^53`);
  return [seed >>> 0, highWord(seed)];
}

function highWord(value: number): number {
  return Math.floor(value / 2 ** 32) >>> 0;
}

/**
 * Philox4x32-10: four random words from a counter of four words and a key of two, into `out`. Allocates nothing.
 * Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
 */
export function philox(counter: ArrayLike<number>, key: ArrayLike<number>, out: Uint32Array): void {
  let [c0, c1, c2, c3] = [counter[0] | 0, counter[1] | 0, counter[2] | 0, counter[3] | 0];
  let [k0, k1] = [key[0] | 0, key[1] | 0];
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(c0, 0xd251, 0x1f53);
    const high1 = multiplyHigh(c2, 0xcd9e, 0x8d57);
    const low0 = Math.imul(c0, 0xd2511f53);
    const low1 = Math.imul(c2, 0xcd9e8d57);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** The high word of a·b for 32-bit a and b = bHigh·2¹⁶ + bLow. No partial sum passes 2³². */
function multiplyHigh(a: number, bHigh: number, bLow: number): number {
  const [high, low] = [a >>> 16, a & 0xffff];
  const middle = (Math.imul(high, bLow) + (Math.imul(low, bLow) >>> 16)) >>> 0;
  const carry = (Math.imul(low, bHigh) + (middle & 0xffff)) >>> 0;
  return (Math.imul(high, bHigh) + (middle >>> 16) + (carry >>> 16)) | 0;
}

/** Which token of which conversation is drawn. */
export interface NoiseSite {
  readonly step: number;
  /** The dataset row's stable id. */
  readonly task: number;
  /** Which of the task's conversations, below 2¹⁶. */
  readonly sample: number;
  /** Which assistant turn, below 2¹⁶. */
  readonly turn: number;
  /** Position of the drawn token in the conversation. */
  readonly position: number;
}

const words = new Uint32Array(4);

/** The key of the noise that draws one token: the first two words of Philox at (step, task, sample·2¹⁶ + turn, position). */
export function noiseKey(seed: Key, { step, task, sample, turn, position }: NoiseSite): Key {
  if (!(sample < 0x10000 && turn < 0x10000))
    throw new Error(`noiseKey: sample ${sample}, turn ${turn} must be < 65536`);
  philox([step, task, sample * 0x10000 + turn, position], seed, words);
  return [words[0], words[1]];
}

/** Above the largest noise there is, −log(−log(1 − 2⁻³³)). */
const MOST_NOISE = 22.9;
const tokenCounter = new Uint32Array(4);

/**
 * Draws from softmax(logits / temperature) by Gumbel-max: the argmax of logits[id]/temperature − log(−log(1 − v)), where
 * v = (word + ½)·2⁻³², and word is number id mod 4 of Philox at counter (⌊id/4⌋, 0, 0, 0) under `key`. The draw depends
 * on nothing else: neither on the order of visits nor on who shares the batch. Of equals the first wins.
 *
 * @param logits holds the `count` logits of one row from index `from`
 * @param temperature 0 takes the largest logit
 * @param lowest tokens with smaller logits take no part; the noise of the others does not depend on it
 * @returns the token id, 0 … count−1
 */
export function sampleGumbel(
  logits: Float32Array | Float64Array,
  from: number,
  count: number,
  temperature: number,
  key: Key,
  lowest = Number.NEGATIVE_INFINITY,
): number {
  let token = argmax(logits, from, count);
  if (temperature === 0) return token;
  if (!(temperature > 0)) throw new Error(`sampleGumbel: temperature ${temperature} must be 0 or above`);
  let best = logits[from + token] / temperature + gumbel(token, key);
  for (let id = 0, block = -1; id < count; id++) {
    if (logits[from + id] < lowest) continue;
    const logit = logits[from + id] / temperature;
    if (logit + MOST_NOISE < best) continue;
    if (id >>> 2 !== block) drawBlock((block = id >>> 2), key);
    // −log(1 − v) ≥ v, so a token wins only with v below exp(logit − best): one exponential spares most logarithms.
    if (toOpen(words[id & 3]) > Math.exp(logit - best) * (1 + 1e-9)) continue;
    const score = logit + toGumbel(words[id & 3]);
    if (score > best || (score === best && id < token)) [best, token] = [score, id];
  }
  return token;
}

function gumbel(id: number, key: Key): number {
  drawBlock(id >>> 2, key);
  return toGumbel(words[id & 3]);
}

function drawBlock(block: number, key: Key): void {
  tokenCounter[0] = block;
  philox(tokenCounter, key, words);
}

function toOpen(word: number): number {
  return (word + 0.5) * 2 ** -32;
}

/** Large where v is small: there v keeps its precision in f32 too, so that a device draws the same tokens. */
function toGumbel(word: number): number {
  return -Math.log(-Math.log(1 - toOpen(word)));
}

function argmax(logits: ArrayLike<number>, from: number, count: number): number {
  let best = Number.NEGATIVE_INFINITY;
  let token = -1;
  for (let id = 0; id < count; id++) {
    const logit = logits[from + id];
    if (!(logit < Number.POSITIVE_INFINITY)) throw new Error(`sampleGumbel: the logit of token ${id} is ${logit}`);
    if (logit > best) [best, token] = [logit, id];
  }
  if (token < 0) throw new Error(`sampleGumbel: none of ${count} logits is finite`);
  return token;
}

/** A sequence of random numbers, for initial weights and shuffles. */
export class RandomStream {
  readonly #key: Key;
  readonly #counter = new Uint32Array(4);
  readonly #words = new Uint32Array(4);
  #used = 4;
  #spareNormal: number | undefined;

  constructor(key: Key) {
    this.#key = key;
  }

  /** 32 random bits. */
  word(): number {
    if (this.#used === 4) {
      philox(this.#counter, this.#key, this.#words);
      if (++this.#counter[0] === 2 ** 32) this.#counter[1]++; // The element itself has wrapped to 0.
      this.#used = 0;
    }
    return this.#words[this.#used++];
  }

  /** Uniform in [0, 1), a multiple of 2⁻⁵³. */
  uniform(): number {
    return ((this.word() >>> 5) * 2 ** 26 + (this.word() >>> 6)) * 2 ** -53;
  }

  /** Uniform in (0, 1]: its logarithm is finite. */
  positive(): number {
    return 1 - this.uniform();
  }

  /** Normal with mean 0 and deviation 1, by Box and Muller. */
  normal(): number {
    const spare = this.#spareNormal;
    this.#spareNormal = undefined;
    if (spare !== undefined) return spare;
    const radius = Math.sqrt(-2 * Math.log(this.positive()));
    const angle = 2 * Math.PI * this.uniform();
    this.#spareNormal = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** Uniform among 0 … n−1, for n up to 2³². */
  int(n: number): number {
    if (!(Number.isInteger(n) && n >= 1 && n <= 2 ** 32)) throw new Error(`int: ${n} is not between 1 and 2^32`);
    const usable = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const word = this.word();
      if (word < usable) return word % n;
    }
  }

  /** Puts an array into random order, in place (Fisher and Yates); returns it. */
  shuffle<T>(array: T[]): T[] {
    for (let i = array.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      [array[i], array[j]] = [array[j], array[i]];
    }
    return array;
  }

  /** One element of an array that is not empty. */
  pick<T>(array: readonly T[]): T {
    if (array.length === 0) throw new Error("pick: the array is empty");
    return array[this.int(array.length)];
  }
}

/** No token stands at this position, so a stream never shares a counter with the noise of sampling. */
const STREAM = 0xffffffff;

/** The random numbers of one purpose: different paths, such as (epoch, purpose), give independent streams. */
export function randomStream(seed: number | bigint | Key, ...path: readonly number[]): RandomStream {
  let key: Key = Array.isArray(seed) ? (seed as unknown as Key) : seedKey(seed as number | bigint);
  for (const [depth, part] of [path.length, ...path].entries()) {
    philox([part, highWord(part), depth, STREAM], key, words);
    key = [words[0], words[1]];
  }
  return new RandomStream(key);
}
