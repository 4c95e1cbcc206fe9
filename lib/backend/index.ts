import { InputError } from "../errors.js";
import type { Backend } from "./backend.js";
import { findBlas } from "./cpu/blas.js";
import { createCpu } from "./cpu/index.js";

/**
 * Opens a device by name: `cuda` (`cuda:1` for the second), `cpu`, `tfjs` (the best engine installed), `tfjs:wasm`,
 * `tfjs:cpu`, `tfjs:node`; `auto` takes cuda where there is a GPU, else cpu where a BLAS is found, else tfjs.
 * @throws InputError for a name that does not exist or an engine that is not there.
 */
export async function openDevice(name = "auto"): Promise<Backend> {
  const [kind, engine] = name.split(":");
  if (kind === "auto") {
    const { countCudaDevices } = await import("./cuda/index.js");
    if (countCudaDevices() > 0) return openDevice("cuda");
    const blas = findBlas();
    if (blas.library) return createCpu({ blas });
    return openDevice("tfjs");
  }
  if (kind === "cpu" && engine === undefined) return createCpu();
  if (kind === "cuda" && (engine === undefined || /^\d+$/.test(engine))) {
    const { createCuda } = await import("./cuda/index.js");
    return createCuda(Number(engine ?? 0));
  }
  if (kind === "tfjs") {
    const { createTfjs } = await import("./tfjs/index.js");
    return createTfjs(engine);
  }
  throw new InputError(
    `device '${name}' does not exist; use auto, cuda, cuda:1, cpu, tfjs, tfjs:wasm, tfjs:cpu or tfjs:node`,
  );
}
