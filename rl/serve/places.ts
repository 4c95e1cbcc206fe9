import { tooBusy } from "./errors.js";

interface Waiting {
  readonly count: number;
  readonly enter: () => void;
}

/** Places for sequences that are drawn at once, and a line of bounded length before them: first come, first served. */
export class Places {
  readonly #line: Waiting[] = [];
  #free: number;

  constructor(
    places: number,
    readonly options: { readonly maxWaiting: number },
  ) {
    this.#free = places;
  }

  /** Requests in the line. */
  get waiting(): number {
    return this.#line.length;
  }

  /**
   * Waits for `count` places, at most as many as there are; the function that comes back frees them.
   * @throws ApiError where the line is full, or the signal's reason where it ends the wait.
   */
  async take(count: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#line.length > 0 || this.#free < count) {
      if (this.#line.length >= this.options.maxWaiting) throw tooBusy();
      await this.#wait(count, signal);
    } else {
      this.#free -= count;
    }
    return () => {
      this.#free += count;
      this.#admit();
    };
  }

  #wait(count: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiting: Waiting = {
        count,
        enter() {
          signal.removeEventListener("abort", leave);
          resolve();
        },
      };
      const leave = () => {
        this.#line.splice(this.#line.indexOf(waiting), 1);
        reject(signal.reason);
        this.#admit();
      };
      signal.addEventListener("abort", leave, { once: true });
      this.#line.push(waiting);
    });
  }

  #admit(): void {
    while (this.#line.length > 0 && this.#line[0].count <= this.#free) {
      const [next] = this.#line.splice(0, 1);
      this.#free -= next.count;
      next.enter();
    }
  }
}
