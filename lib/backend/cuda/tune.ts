import { cacheFile, readCached, store } from "./cache.js";
import { clearBytes } from "./copies.js";
import type { CudaDevice } from "./device.js";

/** Choices that were made on this kind of device with this version of a library, in this run or an earlier one. */
export class ChoiceTable {
  readonly #path: string;
  readonly #choices: Map<string, string>;

  constructor(device: CudaDevice, library: string) {
    this.#path = cacheFile(`${library} ${device.name}.json`.replaceAll(/[^\w.]+/g, "-"));
    this.#choices = this.#read();
  }

  get(key: string): Uint8Array | undefined {
    const text = this.#choices.get(key);
    return text === undefined ? undefined : new Uint8Array(Buffer.from(text, "base64"));
  }

  /** Keeps a choice, and with it what other processes have kept meanwhile. */
  set(key: string, choice: Uint8Array): void {
    for (const [other, text] of this.#read()) this.#choices.set(other, text);
    this.#choices.set(key, Buffer.from(choice).toString("base64"));
    store(this.#path, Buffer.from(JSON.stringify([...this.#choices])));
  }

  #read(): Map<string, string> {
    const content = readCached(this.#path);
    return new Map(content ? (JSON.parse(Buffer.from(content).toString("utf8")) as [string, string][]) : []);
  }
}

/** Fewer rows take the algorithm for so many: a product with one row alone goes another way and gives other bits. */
export const FEW_ROWS = 16;
/** Up to so many rows the time goes into reading the weights, and hardly depends on the rows. */
const BOUND_BY_WEIGHTS = 256;
/** Prompts that are computed while others decode have no more rows. */
const MOST_COMMON_ROWS = 2048;

/**
 * How many rows a product is rounded up to, to share its choice with others: prompts come in ever new lengths, and trying
 * algorithms for each would take longer than the products. Undefined where the product has too many, or they are not rows.
 */
export function commonRows(product: {
  readonly m: number;
  readonly transposeA: boolean;
  readonly batch?: number;
}): number | undefined {
  const { m, transposeA, batch = 1 } = product;
  if (transposeA || batch > 1 || m > MOST_COMMON_ROWS) return undefined;
  const power = 2 ** Math.ceil(Math.log2(m));
  const unit = m <= BOUND_BY_WEIGHTS ? power : power / 8;
  return Math.max(FEW_ROWS, Math.ceil(m / unit) * unit);
}

/** A size rounded up to a sixteenth of a power of two. */
export function sixteenth(size: number): number {
  const unit = 2 ** Math.max(0, Math.floor(Math.log2(size)) - 4);
  return Math.ceil(size / unit) * unit;
}

/** Each candidate runs so often; its shortest time counts. */
const ROUNDS = 4;
/** Another than the first must be faster by this factor. */
const CLEARLY = 0.99;

/**
 * Which of several ways to compute the same `bytes` of result is the fastest: the index of one of those that give the very
 * bits of the first, so that the choice, which depends on the clock, does not show in the result. Undefined where that
 * cannot be told: the device has no memory for two results, or most of the result is 0. Blocks this thread.
 */
export function fastest(
  device: CudaDevice,
  candidates: number,
  bytes: number,
  run: (candidate: number, target: number) => void,
): number | undefined {
  const sizes = [bytes, bytes, 4 * candidates];
  const blocks = sizes.map((size) => device.tryTakeBytes(size, "choice of an algorithm"));
  try {
    const [expected, actual, counts] = blocks;
    if (!expected || !actual || !counts) return undefined;
    clearBytes(device, counts.address, 4 * candidates);
    clearBytes(device, actual.address, bytes);
    const compare = device.kernels.get("compare", "count_differences", "pplp");
    const all = Array.from({ length: candidates }, (_, i) => i);
    // The first is compared with zeros.
    for (const i of all) {
      run(i, i === 0 ? expected.address : actual.address);
      const args = [expected.address, actual.address, bytes / 2, counts.address + 4 * i];
      device.launch(compare, args, { grid: [8 * device.multiprocessors], block: 256 });
    }
    const [filled, ...differences] = new Uint32Array(device.read(counts.address, 4 * candidates).buffer);
    if (filled < bytes / 8) return undefined;
    const times = all.map(() => Number.POSITIVE_INFINITY);
    for (let round = 0; round < ROUNDS; round++) {
      for (const i of all) {
        if (i === 0 || differences[i - 1] === 0) {
          times[i] = Math.min(
            times[i],
            device.time(() => run(i, actual.address)),
          );
        }
      }
    }
    const best = times.indexOf(Math.min(...times));
    return times[best] < CLEARLY * times[0] ? best : 0;
  } finally {
    for (const block of blocks) if (block) device.giveBytes(block);
  }
}
