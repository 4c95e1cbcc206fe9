import { setTimeout as sleep } from "node:timers/promises";
import { CallError } from "./callError.js";

export interface CallLimits {
  /** Seconds that one attempt may take. */
  readonly timeout: number;
  /** Seconds that a call may take as a whole: waiting for a place, attempts, and pauses between them. */
  readonly deadline: number;
  /** Attempts after the first. */
  readonly retries: number;
  /** Seconds before the first retry; twice as long before each further one, up to 30. Default 0.5. */
  readonly backoff?: number;
}

const LONGEST_PAUSE = 30;

/** Node's timers take no more, some 24 days, and fire at once instead. */
const LONGEST_TIMER = 2 ** 31 - 1;

function milliseconds(seconds: number): number {
  return Math.min(LONGEST_TIMER, 1000 * seconds);
}

/**
 * Seconds to wait before retry `retry` (from 0): between half and all of backoff·2^retry, so that callers who failed
 * together do not come back together; at least what the server asked for.
 */
export function pauseBefore(retry: number, backoff: number, retryAfter = 0, random = Math.random): number {
  const most = Math.min(LONGEST_PAUSE, backoff * 2 ** retry);
  return Math.max(retryAfter, most * (0.5 + 0.5 * random()));
}

/** Does one attempt's work within the attempt's time; that time begins with the call. */
export type Timed = <R>(work: (signal: AbortSignal) => Promise<R>) => Promise<R>;

/**
 * Attempts until one succeeds, one fails in a way that another attempt would not mend, or the retries or the time are
 * used up. Nothing outlasts the deadline, whatever the attempts do with their signal.
 * @throws CallError of the last attempt.
 */
export async function retrying<T>(
  attempt: (number: number, timed: Timed) => Promise<T>,
  { timeout, deadline, retries, backoff = 0.5 }: CallLimits,
): Promise<T> {
  let last: CallError | undefined;
  const late = () => {
    const why = last ? `; the last attempt: ${last.message}` : "";
    return new CallError("deadline", `no usable reply within ${deadline} s${why}`);
  };
  const tooLong = () => new CallError("timeout", `no reply within ${timeout} s`);
  return within(deadline, late, async (whole) => {
    const timed: Timed = (work) => {
      whole.throwIfAborted();
      return within(timeout, tooLong, (own) => endedBy(whole, work(AbortSignal.any([whole, own]))));
    };
    for (let number = 0; ; number++) {
      try {
        return await attempt(number, timed);
      } catch (error) {
        if (!(error instanceof CallError) || !error.mayPass || whole.aborted) throw error;
        last = error;
      }
      if (number >= retries) {
        throw number === 0 ? last : new CallError(last.fault, `${last.message}, after ${number + 1} attempts`);
      }
      await sleep(milliseconds(pauseBefore(number, backoff, last.retryAfter)), undefined, { signal: whole });
    }
  });
}

/** The work's end, or the signal's. */
function endedBy<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    work.then(resolve, reject);
  });
}

/** The work's end, or an error after `seconds`, whichever comes first; work that goes on after that is nobody's. */
function within<T>(seconds: number, reason: () => CallError, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  return new Promise<T>((resolve, reject) => {
    const clock = setTimeout(() => {
      const error = reason();
      controller.abort(error);
      reject(error);
    }, milliseconds(seconds));
    work(controller.signal)
      .then(resolve, reject)
      .finally(() => clearTimeout(clock));
  });
}
