import { InputError } from "../lib/index.js";
import type { Trajectory } from "./trajectory.js";

/** How many conversations failed for each reason, most frequent first; numbers in reasons do not tell them apart. */
export function failureReasons(trajectories: readonly Trajectory[]): [reason: string, count: number][] {
  const counts = new Map<string, { readonly example: string; count: number }>();
  for (const { failure } of trajectories) {
    if (failure === undefined) continue;
    const kind = failure.replace(/\d+(\.\d+)?/g, "#").slice(0, 200);
    const seen = counts.get(kind) ?? { example: failure, count: 0 };
    seen.count++;
    counts.set(kind, seen);
  }
  return [...counts.values()]
    .sort((a, b) => b.count - a.count)
    .map(({ example, count }) => [example.slice(0, 200), count]);
}

/**
 * Ends a run of which too much fails: what is left would be another sample than the one asked for.
 * @throws InputError with the most frequent reason where more than the share `limit` of the conversations failed.
 */
export function checkFailures(trajectories: readonly Trajectory[], limit: number): void {
  const failed = trajectories.filter(({ failure }) => failure !== undefined).length;
  if (failed === 0 || failed <= limit * trajectories.length) return;
  const [[reason, count]] = failureReasons(trajectories);
  throw new InputError(
    `${failed} of ${trajectories.length} conversations failed, more than rollout.maxFailures=${limit} allows; ` +
      `${count} of them by: ${reason}`,
  );
}
