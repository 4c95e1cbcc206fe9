/** A line on a terminal that says how far something is; nothing where standard error is no terminal. */
export interface ProgressLine {
  show(text: string): void;
  /** Removes the line. */
  clear(): void;
}

/** At most ten times a second, so that showing costs nothing. */
export function progressLine(stream: NodeJS.WriteStream = process.stderr, now: () => number = Date.now): ProgressLine {
  let last = Number.NEGATIVE_INFINITY;
  const write = (text: string) => stream.isTTY && stream.write(`\r\x1b[2K${text}`);
  return {
    show(text) {
      if (now() - last < 100) return;
      last = now();
      write(text.slice(0, (stream.columns ?? 80) - 1));
    },
    clear: () => void write(""),
  };
}

/** Bytes for people: 512 B, 1.2 kB, 3.1 GB. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return `${(bytes / 1000 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}
