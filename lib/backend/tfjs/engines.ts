import { createRequire } from "node:module";
import { dirname, sep } from "node:path";
import util from "node:util";
import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import type * as TensorFlow from "@tensorflow/tfjs-core";
import type { Tensor as EngineTensor } from "@tensorflow/tfjs-core";
import type { TypedArray } from "../../dtype.js";

/** The module of tfjs-core, or of a package that includes it. */
export type Tf = typeof TensorFlow;

/** What stands behind `tfjs:`; the best first. */
export const engineNames = ["node", "wasm", "cpu"] as const;
export type EngineName = (typeof engineNames)[number];

/** An engine of TensorFlow.js, ready to compute. */
export interface Engine {
  readonly tf: Tf;
  readonly name: EngineName;
  /** The name under which tfjs has it registered. */
  readonly registered: string;
  /** Package, version and kind, for people. */
  readonly detail: string;
  /** It refers to an array that it is given, rather than copying it. */
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

const loaded = new Map<EngineName, Promise<Engine>>();
let last: Promise<unknown> = Promise.resolve();

/**
 * Loads an engine, once, and one at a time: tfjs gives up on an engine when another is asked for before it is ready.
 * Rejects with the reason where it is not there.
 */
export function loadEngine(name: EngineName): Promise<Engine> {
  let engine = loaded.get(name);
  if (!engine) {
    engine = last.then(loaders[name]);
    last = engine.catch(() => {});
    loaded.set(name, engine);
  }
  return engine;
}

const loaders: Readonly<Record<EngineName, () => Promise<Engine>>> = {
  async node() {
    restoreIsNullOrUndefined();
    const reasons: string[] = [];
    for (const name of ["@tensorflow/tfjs-node-gpu", "@tensorflow/tfjs-node"]) {
      try {
        const module = await import(name);
        const tf: Tf = module.default ?? module;
        await start(tf, "tensorflow");
        const { isUsingGpuDevice } = tf.backend() as { isUsingGpuDevice?: boolean };
        const detail = `${name} ${tf.version_core}, ${isUsingGpuDevice ? "GPU" : "CPU"}`;
        return { tf, name: "node", registered: "tensorflow", detail, keepsArrays: true };
      } catch (error) {
        reasons.push(whyMissing(name, error as NodeJS.ErrnoException));
      }
    }
    throw new Error(reasons.join("; "));
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
    throwWhenFull(backend.wasm as unknown as Heap);
    const view = (tensor: EngineTensor) => backend.typedArrayFromHeap(tensor) as TypedArray;
    return { tf, name: "wasm", registered: "wasm", detail, keepsArrays: false, host: { view, productFrom: 150_000 } };
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
  // Otherwise tfjs prints advice to install tfjs-node.
  tf.enableProdMode();
  if (!(await tf.setBackend(registered))) throw new Error(`tfjs could not start its engine '${registered}'`);
}

interface Heap {
  _malloc(bytes: number): number;
  _free(address: number): void;
}

/** Where WebAssembly's memory is used up, tfjs would go on at address 0 and write over its own data. */
function throwWhenFull(wasm: Heap): void {
  // The first call puts another function in this one's place.
  wasm._free(wasm._malloc(1));
  const malloc = wasm._malloc;
  wasm._malloc = (bytes) => {
    const address = bytes < 2 ** 32 ? malloc(bytes) : 0;
    if (address === 0) {
      const mebibytes = Math.ceil(bytes / 2 ** 20);
      throw new Error(
        `tfjs:wasm is out of memory: ${mebibytes} MiB do not fit its 4 GiB; use fewer tokens at once, or the cpu`,
      );
    }
    return address;
  };
}

/** tfjs-node calls util.isNullOrUndefined, which Node 23 took away. */
function restoreIsNullOrUndefined(): void {
  if ("isNullOrUndefined" in util) return;
  Object.assign(util, { isNullOrUndefined: (value: unknown) => value === null || value === undefined });
}

function whyMissing(name: string, { code, message }: NodeJS.ErrnoException): string {
  if (code === "ERR_MODULE_NOT_FOUND" && message.includes(`'${name}'`)) return `${name} is not installed`;
  return `${name}: ${message.split("\n")[0]}`;
}
