/**
 * Numbers words, given as UTF-16 code units, 0, 1, 2, … in order of first sight. Keys are copied into one array: a Map of
 * string slices would keep every document alive that a word was ever seen in.
 */
export class WordTable {
  /** Number of words. */
  size = 0;
  #starts = new Int32Array(1 << 10); // word w is #units[#starts[w] … #starts[w + 1])
  #hashes = new Int32Array(1 << 10);
  #units = new Uint16Array(1 << 13);
  #slots = new Int32Array(1 << 11); // word + 1, or 0 where free; linear probing, at most half full

  /** The word's number. It is new if it equals the `size` from before the call. */
  intern(units: Uint16Array, start: number, end: number): number {
    let hash = end - start;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ units[i], 0x9e3779b1) ^ (hash >>> 15);
    const mask = this.#slots.length - 1;
    let slot = (hash ^ (hash >>> 16)) & mask;
    for (; this.#slots[slot] !== 0; slot = (slot + 1) & mask) {
      const word = this.#slots[slot] - 1;
      if (this.#hashes[word] === hash && this.#equals(word, units, start, end)) return word;
    }
    this.#slots[slot] = this.size + 1;
    return this.#append(hash, units, start, end);
  }

  /** Code units of a word, valid until the next `intern`. */
  word(word: number): Uint16Array {
    return this.#units.subarray(this.#starts[word], this.#starts[word + 1]);
  }

  clear(): void {
    this.size = 0;
    this.#slots.fill(0);
  }

  #equals(word: number, units: Uint16Array, start: number, end: number): boolean {
    let key = this.#starts[word];
    if (this.#starts[word + 1] - key !== end - start) return false;
    for (let i = start; i < end; i++) if (this.#units[key++] !== units[i]) return false;
    return true;
  }

  #append(hash: number, units: Uint16Array, start: number, end: number): number {
    const word = this.size++;
    const used = this.#starts[word];
    if (used + end - start > this.#units.length) this.#units = grown(this.#units, used + end - start);
    if (word + 2 > this.#starts.length) {
      this.#starts = grown(this.#starts, word + 2);
      this.#hashes = grown(this.#hashes, word + 2);
    }
    for (let i = start; i < end; i++) this.#units[used + i - start] = units[i];
    this.#starts[word + 1] = used + end - start;
    this.#hashes[word] = hash;
    if (2 * this.size > this.#slots.length) this.#rehash();
    return word;
  }

  #rehash(): void {
    const slots = new Int32Array(2 * this.#slots.length);
    const mask = slots.length - 1;
    for (let word = 0; word < this.size; word++) {
      const hash = this.#hashes[word];
      let slot = (hash ^ (hash >>> 16)) & mask;
      while (slots[slot] !== 0) slot = (slot + 1) & mask;
      slots[slot] = word + 1;
    }
    this.#slots = slots;
  }
}

/** A copy of at least twice the length. */
export function grown<T extends Uint16Array | Int32Array>(array: T, atLeast: number): T {
  const copy = new (array.constructor as new (length: number) => T)(Math.max(2 * array.length, atLeast));
  copy.set(array);
  return copy;
}
