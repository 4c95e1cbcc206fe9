import { InputError } from "../../errors.js";
import type { Backend } from "../backend.js";
import { adapt } from "./adapt.js";
import { type EngineName, loaders } from "./engines.js";

/** Whether an engine can be used here, and what it is or what stands against it. */
export interface EngineReport {
  /** As in `tfjs:NAME`. */
  readonly name: EngineName;
  readonly available: boolean;
  readonly detail: string;
}

/** Every engine that `tfjs` knows, the best first. */
const names = ["node", "wasm", "cpu"] as const satisfies readonly EngineName[];

const remedies: Readonly<Record<EngineName, string>> = {
  node: "npm install @tensorflow/tfjs-node, or @tensorflow/tfjs-node-gpu for CUDA",
  wasm: "npm install @tensorflow/tfjs-core @tensorflow/tfjs-backend-wasm",
  cpu: "npm install @tensorflow/tfjs-core @tensorflow/tfjs-backend-cpu",
};

/**
 * Opens a TensorFlow.js engine: `node` (TensorFlow's C library, from tfjs-node-gpu or tfjs-node), `wasm` or `cpu`; without
 * a name the first of these that is there.
 * @throws InputError for an engine that does not exist or is not installed, with what installs it.
 */
export async function createTfjs(engine?: string): Promise<Backend> {
  if (engine !== undefined && !(names as readonly string[]).includes(engine)) {
    throw new InputError(`tfjs has no engine '${engine}'; use ${names.join(", ")}`);
  }
  const failures: string[] = [];
  for (const name of engine === undefined ? names : [engine as EngineName]) {
    try {
      return adapt(await loaders[name]());
    } catch (error) {
      failures.push(`tfjs:${name} is not available (${(error as Error).message}); ${remedies[name]}`);
    }
  }
  throw new InputError(failures.join("; "));
}

/** Which engines can be used here; loads them all. */
export async function findTfjsEngines(): Promise<EngineReport[]> {
  const reports: EngineReport[] = [];
  for (const name of names) {
    const report = await loaders[name]().then(
      ({ detail }) => ({ available: true, detail }),
      (error: Error) => ({ available: false, detail: `${error.message}; ${remedies[name]}` }),
    );
    reports.push({ name, ...report });
  }
  return reports;
}
