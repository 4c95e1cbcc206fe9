import { createRequire } from "node:module";
import { dirname, sep } from "node:path";
import util from "node:util";
import type * as TensorFlow from "@tensorflow/tfjs-core";
import type { Tensor as EngineTensor } from "@tensorflow/tfjs-core";
import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import type { TypedArray } from "../../dtype.js";

/** The module of tfjs-core, or of a package that includes it. */
export type Tf = typeof TensorFlow;

export type EngineName = "node" | "wasm" | "cpu";

/** An engine of TensorFlow.js that was loaded and is ready. */
export interface Engine {
  readonly tf: Tf;
  /** As in `tfjs:NAME`. */
  readonly name: EngineName;
  /** The name under which tfjs has it registered. */
  readonly registered: string;
  /** Package, version and kind, for people. */
  readonly detail: string;
  /** Refers to an array that it is given, rather than copying it. */
  readonly keepsArrays: boolean;
  /**
   * There where the engine computes in the host's memory: what it does wrong, slowly or not at all is then done by the cpu
   * backend, the fused kernels included. Without it every operation is the engine's, and fused ones are composed of them.
   */
  readonly host?: HostTraits;
}

export interface HostTraits {
  /** A tensor's elements where they lie, to be read before the engine allocates again. */
  view(tensor: EngineTensor): TypedArray;
  /** The engine's product of matrices beats a loop from this many multiplications on. */
  readonly productFrom: number;
}

/** Loads an engine, or rejects with the reason why it is not there. */
export const loaders: Readonly<Record<EngineName, () => Promise<Engine>>> = {
  async node() {
    restoreIsNullOrUndefined();
    const missing: string[] = [];
    for (const name of ["@tensorflow/tfjs-node-gpu", "@tensorflow/tfjs-node"]) {
      try {
        const module = await import(name);
        const tf: Tf = module.default ?? module;
        await start(tf, "tensorflow");
        const detail = `${name} ${tf.version_core}`;
        return { tf, name: "node", registered: "tensorflow", detail, keepsArrays: true };
      } catch (error) {
        missing.push(reason(name, error));
      }
    }
    throw new Error(missing.join("; "));
  },

  async wasm() {
    const tf = await import("@tensorflow/tfjs-core");
    const { setWasmPaths } = await import("@tensorflow/tfjs-backend-wasm");
    const main = createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm");
    setWasmPaths(dirname(main) + sep);
    await start(tf, "wasm");
    const simd = (await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT")) ? "SIMD" : "no SIMD";
    const detail = `@tensorflow/tfjs-backend-wasm ${tf.version_core}, ${simd}, one thread`;
    const backend = tf.backend() as BackendWasm;
    const host = { view: (tensor: EngineTensor) => backend.typedArrayFromHeap(tensor) as TypedArray, productFrom: 150_000 };
    return { tf, name: "wasm", registered: "wasm", detail, keepsArrays: false, host };
  },

  async cpu() {
    const tf = await import("@tensorflow/tfjs-core");
    await import("@tensorflow/tfjs-backend-cpu");
    await start(tf, "cpu");
    const detail = `@tensorflow/tfjs-backend-cpu ${tf.version_core}, JavaScript`;
    const host = { view: (tensor: EngineTensor) => tensor.dataSync(), productFrom: Number.POSITIVE_INFINITY };
    return { tf, name: "cpu", registered: "cpu", detail, keepsArrays: true, host };
  },
};

async function start(tf: Tf, registered: string): Promise<void> {
  // Without it tfjs prints an advertisement and looks at every value for NaN.
  tf.enableProdMode();
  if (!(await tf.setBackend(registered))) throw new Error(`tfjs could not start its engine '${registered}'`);
}

/** tfjs-node calls util.isNullOrUndefined, which Node 23 took away. */
function restoreIsNullOrUndefined(): void {
  if ("isNullOrUndefined" in util) return;
  Object.assign(util, { isNullOrUndefined: (value: unknown) => value === null || value === undefined });
}

function reason(name: string, error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ERR_MODULE_NOT_FOUND" && message.includes(`'${name}'`)) return `${name} is not installed`;
  return `${name}: ${message.split("\n")[0]}`;
}
