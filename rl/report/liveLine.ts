import { formatDuration } from "./format.js";

/** What the live line shows. */
export interface LiveStatus {
  /** What a step is called. Default "step". */
  readonly unit?: string;
  /** Steps done, of `steps`. */
  readonly step: number;
  readonly steps: number;
  /** Values in the order to show them, such as `{ outcome: 0.62, "held-out": 0.71 }`; undefined ones are left out. */
  readonly values?: Readonly<Record<string, number | undefined>>;
  readonly tokensPerSecond?: number;
  readonly secondsLeft?: number;
}

/**
 * `step 37/80  outcome 0.62  held-out 0.71  PRM loss 0.41  1,234 tok/s  0:14 left`. Where that is longer than
 * `columns`, values are left out from the right until it fits; step and time left stay.
 */
export function formatLiveLine(status: LiveStatus, columns = Number.POSITIVE_INFINITY): string {
  const { unit = "step", step, steps, values = {}, tokensPerSecond, secondsLeft } = status;
  const start = `${unit} ${String(step).padStart(String(steps).length)}/${steps}`;
  const end = secondsLeft === undefined ? [] : [`${formatDuration(secondsLeft)} left`];
  const middle = Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name} ${formatValue(value)}`],
  );
  if (tokensPerSecond !== undefined) middle.push(`${Math.round(tokensPerSecond).toLocaleString("en-US")} tok/s`);
  const line = () => [start, ...middle, ...end].join("  ");
  while (middle.length > 0 && line().length > columns) middle.pop();
  return line().slice(0, columns);
}

function formatValue(value: number): string {
  const size = Math.abs(value);
  return size !== 0 && size < 0.005 ? value.toExponential(0) : value.toFixed(2);
}

/**
 * Estimates the time left from an exponential moving average of the step time, in which a step weighs `weight` and its
 * forerunners 1 − `weight` in all (bias-corrected, so that the first steps count in full).
 */
export function stepClock(weight = 0.1): (step: number, seconds: number, steps: number) => number | undefined {
  let last: { step: number; seconds: number } | undefined;
  let average = 0;
  let mass = 0;
  return (step, seconds, steps) => {
    if (last && step > last.step) {
      const keep = (1 - weight) ** (step - last.step);
      average = keep * average + (1 - keep) * ((seconds - last.seconds) / (step - last.step));
      mass = keep * mass + (1 - keep);
    }
    last = { step, seconds };
    return mass === 0 ? undefined : (average / mass) * Math.max(0, steps - step);
  };
}

/** Where the live line is written; `process.stderr` is one. */
export interface LiveStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** The progress of a run on the terminal. */
export interface LiveLine {
  /** Shows the state after a step; the time left is estimated here. */
  update(status: Omit<LiveStatus, "steps" | "secondsLeft">): void;
  /** Prints a line that stays. */
  note(text: string): void;
  /** Leaves the last state standing and goes to a new line. */
  end(): void;
}

/**
 * On a terminal, one line rewritten in place; elsewhere a plain line for the first and the last step and, between them,
 * for the first step after every `everySeconds`. `now` is a clock in seconds.
 */
export function openLiveLine(options: {
  readonly steps: number;
  /** Steps that a resumed run has behind it. */
  readonly done?: number;
  readonly stream?: LiveStream;
  readonly everySeconds?: number;
  readonly now?: () => number;
}): LiveLine {
  const { steps, done = 0, stream = process.stderr, everySeconds = 5, now = () => performance.now() / 1000 } = options;
  const clock = stepClock();
  clock(done, now(), steps);
  let shown = "";
  let printedAt = Number.NEGATIVE_INFINITY;
  return {
    update(status) {
      const seconds = now();
      const state = { ...status, steps, secondsLeft: clock(status.step, seconds, steps) };
      if (stream.isTTY) {
        shown = formatLiveLine(state, Math.max(20, (stream.columns ?? 80) - 1));
        stream.write(`\r${shown}\x1b[K`);
      } else if (seconds - printedAt >= everySeconds || status.step >= steps) {
        printedAt = seconds;
        stream.write(`${formatLiveLine(state)}\n`);
      }
    },
    note(text) {
      stream.write(stream.isTTY && shown !== "" ? `\r\x1b[K${text}\n${shown}` : `${text}\n`);
    },
    end() {
      if (shown !== "") stream.write("\n");
      shown = "";
    },
  };
}

/** Warns of optimizer steps that were dropped: `shares` are parts of a step's, per model; none and undefined are no news. */
export function noteSkipped(line: LiveLine, step: number, shares: Readonly<Record<string, number | undefined>>): void {
  for (const [model, share] of Object.entries(shares)) {
    if (!share) continue;
    const part = share < 1 ? `${Math.round(100 * share)} % of the updates` : "the update";
    line.note(`step ${step}: ${part} of the ${model} dropped, the gradient was not finite; lower its lr`);
  }
}
