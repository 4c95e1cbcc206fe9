import { InputError } from "../lib/errors.js";
import { readCollab } from "./collabllm.js";
import { readMedical } from "./medicalSource.js";
import type { Source, SourceOptions } from "./source.js";

/** A dataset that can be prepared. */
export interface Dataset {
  /** Where the Hub has it, if it does. */
  readonly repo?: string;
  /** Where to get its files otherwise. */
  readonly home?: string;
  /** What its conversations are about, as the simulated user is told. */
  readonly taskDesc: string;
  readonly read: (options: SourceOptions) => Promise<Source>;
}

const COLLAB_TASKS = {
  "math-hard": "solving math problems",
  medium: "document editing",
  bigcodebench: "code generation",
};

/** The datasets by the names that `itpo data prepare` takes. */
export const DATASETS: Readonly<Record<string, Dataset>> = {
  ...Object.fromEntries(
    Object.entries(COLLAB_TASKS).flatMap(([name, taskDesc]) =>
      [name, `${name}-large`].map((each) => [
        each,
        { repo: `collabllm/collabllm-multiturn-${each}`, taskDesc, read: readCollab },
      ]),
    ),
  ),
  mtmeddialog: {
    home: "the repository JarvisUSTC/DoctorAgent-RL on GitHub",
    taskDesc: "medical consultation",
    read: readMedical,
  },
};

/** @throws InputError where there is no dataset of that name. */
export function datasetByName(name: string): Dataset {
  if (Object.hasOwn(DATASETS, name)) return DATASETS[name];
  throw new InputError(`there is no dataset '${name}'; choose ${Object.keys(DATASETS).join(", ")}`);
}
