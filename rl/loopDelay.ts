import { monitorEventLoopDelay } from "node:perf_hooks";

/** Milliseconds between two looks at the clock: shorter delays than that are seen in part. */
const RESOLUTION = 5;

/** How late the event loop is with what is due, in milliseconds. */
export interface Delays {
  /** 99 % of the looks were at most so late. */
  readonly p99: number;
  readonly max: number;
}

export interface LoopDelay {
  /** Of the time since it began, or since the last `take`. */
  readonly delays: Delays;
  /** The same, and begins anew. */
  take(): Delays;
  stop(): void;
}

/** Watches how long the event loop is blocked: while it is, no timer, no user's answer and no request has its turn. */
export function watchLoopDelay(): LoopDelay {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION });
  histogram.enable();
  // The histogram counts from one look to the next, in nanoseconds.
  const late = (nanoseconds: number) => Math.max(0, Number((nanoseconds / 1e6 - RESOLUTION).toFixed(3)));
  const delays = () => ({ p99: late(histogram.percentile(99)), max: late(histogram.max) });
  return {
    get delays() {
      return delays();
    },
    take() {
      const now = delays();
      histogram.reset();
      return now;
    },
    stop: () => void histogram.disable(),
  };
}

/** The same as metrics of a run. */
export function delayMetrics({ p99, max }: Delays): Record<string, number> {
  return { "event_loop/p99_ms": p99, "event_loop/max_ms": max };
}
