import { InputError } from "../errors.js";

export type ScheduleKind = "constant" | "linear" | "cosine";

export interface ScheduleOptions {
  /** How the factor falls after warm-up. Default constant. */
  readonly kind?: ScheduleKind;
  /** Steps over which the factor rises linearly to 1. Default 0. */
  readonly warmupSteps?: number;
  /** The step at which `final` is reached; linear and cosine need it. */
  readonly totalSteps?: number;
  /** The factor at the end, 0 … 1. Default 0. */
  readonly final?: number;
}

/** What is left of the way from 1 down to `final`, by the fraction of the decay that is over. */
const decays: Record<ScheduleKind, (progress: number) => number> = {
  constant: () => 1,
  linear: (progress) => 1 - progress,
  cosine: (progress) => (1 + Math.cos(Math.PI * progress)) / 2,
};

/**
 * Learning-rate factor by the 1-based number of the optimizer step: step / warmupSteps up to warmupSteps, then from 1 to
 * `final` at totalSteps, and `final` after it. Step n has the factor of `epoch` n in transformers' `get_*_schedule`; a
 * run here starts with n = 1, so that no step has factor 0.
 */
export function schedule(options: ScheduleOptions = {}): (step: number) => number {
  const { kind = "constant", warmupSteps = 0, totalSteps = Number.POSITIVE_INFINITY, final = 0 } = options;
  const decay = decays[kind];
  if (!decay) throw new InputError(`schedule '${kind}' does not exist; use ${Object.keys(decays).join(", ")}`);
  if (kind !== "constant" && !(totalSteps > warmupSteps && totalSteps < Number.POSITIVE_INFINITY)) {
    throw new InputError(`schedule '${kind}' needs totalSteps (${totalSteps}) above warmupSteps (${warmupSteps})`);
  }
  return (step) => {
    if (step < warmupSteps) return step / warmupSteps;
    const progress = Math.min(1, (step - warmupSteps) / (totalSteps - warmupSteps));
    return final + (1 - final) * decay(progress);
  };
}
