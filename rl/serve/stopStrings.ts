/** Text that comes in pieces, cut before the first stop string in it. */
export interface StopStrings {
  /** Whether a stop string was found; what is pushed then is dropped. */
  readonly stopped: boolean;
  /** The text that is certain with this piece: what may be the beginning of a stop string is held back. */
  push(piece: string): string;
  /** What was held back, where no stop string came of it. */
  end(): string;
}

/**
 * Of stop strings that overlap the one that ends first counts, of those that end together the longest: the result does
 * not depend on how the text is cut into pieces.
 */
export function stopStrings(stops: readonly string[]): StopStrings {
  let held = "";
  let stopped = false;

  function release(length: number): string {
    const text = held.slice(0, length);
    held = held.slice(length);
    return text;
  }

  return {
    get stopped() {
      return stopped;
    },
    push(piece) {
      if (stopped) return "";
      held += piece;
      const at = firstStop(held, stops);
      if (at === undefined) return release(held.length - openPrefix(held, stops));
      stopped = true;
      const text = release(at);
      held = "";
      return text;
    },
    end: () => release(held.length),
  };
}

/** Where the stop string begins that ends first. */
function firstStop(text: string, stops: readonly string[]): number | undefined {
  const found = stops.map((stop) => ({ at: text.indexOf(stop), stop })).filter(({ at }) => at >= 0);
  found.sort((a, b) => a.at + a.stop.length - (b.at + b.stop.length) || a.at - b.at);
  return found[0]?.at;
}

/** Length of the longest end of `text` with which a stop string begins. */
function openPrefix(text: string, stops: readonly string[]): number {
  const lengths = stops.map((stop) => {
    for (let length = Math.min(stop.length - 1, text.length); length > 0; length--) {
      if (text.endsWith(stop.slice(0, length))) return length;
    }
    return 0;
  });
  return Math.max(0, ...lengths);
}
