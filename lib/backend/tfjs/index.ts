import { InputError } from "../../errors.js";
import type { Backend } from "../backend.js";
import { adapt } from "./adapt.js";
import { type EngineName, engineNames, loadEngine } from "./engines.js";

/** Whether an engine can be used here. */
export interface EngineReport {
  /** As in `tfjs:NAME`. */
  readonly name: EngineName;
  readonly available: boolean;
  /** What it is, or why it is not there and what installs it. */
  readonly detail: string;
}

const remedies: Readonly<Record<EngineName, string>> = {
  node: "npm install @tensorflow/tfjs-node (or tfjs-node-gpu for CUDA) and let its install script run",
  wasm: "npm install @tensorflow/tfjs-core @tensorflow/tfjs-backend-wasm",
  cpu: "npm install @tensorflow/tfjs-core @tensorflow/tfjs-backend-cpu",
};

/**
 * Opens a TensorFlow.js engine: `node` (TensorFlow's C library, from tfjs-node-gpu or tfjs-node), `wasm` or `cpu`;
 * without a name the first of these that is there.
 * @throws InputError for an engine that does not exist, or is not there, with what installs it.
 */
export async function createTfjs(engine?: string): Promise<Backend> {
  const names = engine === undefined ? engineNames : engineNames.filter((name) => name === engine);
  if (names.length === 0) throw new InputError(`tfjs has no engine '${engine}'; use ${engineNames.join(", ")}`);
  const failures: string[] = [];
  for (const name of names) {
    try {
      return adapt(await loadEngine(name));
    } catch (error) {
      failures.push(`tfjs:${name}: ${explain(name, error as Error)}`);
    }
  }
  throw new InputError(failures.join("; "));
}

/** Loads every engine that `tfjs` knows, the best first, and says what became of it. */
export function findTfjsEngines(): Promise<EngineReport[]> {
  return Promise.all(
    engineNames.map((name) =>
      loadEngine(name).then(
        ({ detail }) => ({ name, available: true, detail }),
        (error: Error) => ({ name, available: false, detail: explain(name, error) }),
      ),
    ),
  );
}

function explain(name: EngineName, { message }: Error): string {
  return `${message}; to have it: ${remedies[name]}`;
}
