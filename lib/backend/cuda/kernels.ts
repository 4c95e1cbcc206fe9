import { readFileSync } from "node:fs";
import { InputError } from "../../errors.js";
import { type Driver, out64 } from "./driver.js";
import { cubin, cubinAsync, type Program } from "./nvrtc.js";

/** A kernel that can be launched. */
export interface Kernel {
  readonly name: string;
  readonly handle: number;
  /** One letter an argument: p address, i i32, l i64, f f32, s a struct, such as a CUtensorMap. */
  readonly signature: string;
}

export type Defines = Readonly<Record<string, string | number>>;

const folder = new URL("../../../../lib/backend/cuda/kernels/", import.meta.url);

/** The text of `kernels/NAME.cu` with the `.cuh` files it includes put in their places, each once. */
export function kernelSource(name: string): string {
  const seen = new Set<string>();
  const expand = (file: string): string => {
    if (seen.has(file)) return "";
    seen.add(file);
    let text: string;
    try {
      text = readFileSync(new URL(file, folder), "utf8");
    } catch (error) {
      throw new InputError(
        `cuda: kernel source ${file} cannot be read (${(error as Error).message}); reinstall the package`,
      );
    }
    return text.replace(/^#include "([^"]+)"$/gm, (_, included: string) => expand(included));
  };
  return expand(`${name}.cu`);
}

/** Compiled kernel files of one device. */
export class KernelLibrary {
  readonly #modules = new Map<string, number>();
  readonly #kernels = new Map<string, Kernel>();
  readonly #allowShared: (handle: number, bytes: number) => void;

  constructor(
    private readonly driver: Driver,
    private readonly architecture: string,
  ) {
    this.#allowShared = sharedMemoryLimits(driver);
  }

  /**
   * The kernel `entry` of `kernels/FILE.cu` compiled with `defines`, from memory, disk or compiled now. `sharedBytes`:
   * the dynamic shared memory it will be launched with at most.
   */
  get(file: string, entry: string, signature: string, defines: Defines = {}, sharedBytes = 0): Kernel {
    const moduleKey = keyOf(file, defines);
    const key = `${entry} ${sharedBytes} ${moduleKey}`;
    let kernel = this.#kernels.get(key);
    if (!kernel) {
      const module = this.#module(moduleKey, () => this.#program(file, kernelSource(file), defines));
      kernel = this.#bind(module, entry, signature, sharedBytes);
      this.#kernels.set(key, kernel);
    }
    return kernel;
  }

  /** The kernel `entry` of generated source; `key` names the source. */
  generated(key: string, entry: string, signature: string, source: () => string): Kernel {
    let kernel = this.#kernels.get(key);
    if (!kernel) {
      const module = this.#module(key, () => this.#program(entry, source(), {}));
      kernel = this.#bind(module, entry, signature, 0);
      this.#kernels.set(key, kernel);
    }
    return kernel;
  }

  /** Compiles files at the same time, on several threads, so that their first use finds them ready. */
  async prepare(files: readonly { readonly file: string; readonly defines: Defines }[]): Promise<void> {
    await Promise.all(
      files.map(async ({ file, defines }) => {
        const key = keyOf(file, defines);
        if (this.#modules.has(key)) return;
        const image = await cubinAsync(this.#program(file, kernelSource(file), defines));
        if (!this.#modules.has(key)) this.#modules.set(key, this.#load(image));
      }),
    );
  }

  /** Unloads everything. */
  close(): void {
    for (const module of this.#modules.values()) this.driver.moduleUnload(module);
    this.#modules.clear();
    this.#kernels.clear();
  }

  #program(name: string, source: string, defines: Defines): Program {
    const lines = Object.entries(defines).map(([key, value]) => `#define ${key} ${value}\n`);
    return { name, source: `${lines.join("")}${source}`, architecture: this.architecture };
  }

  #module(key: string, program: () => Program): number {
    let module = this.#modules.get(key);
    if (module === undefined) this.#modules.set(key, (module = this.#load(cubin(program()))));
    return module;
  }

  #load(image: Uint8Array): number {
    return out64((module) => this.driver.moduleLoadData(module, image));
  }

  #bind(module: number, entry: string, signature: string, sharedBytes: number): Kernel {
    const handle = out64((result) => this.driver.moduleGetFunction(result, module, entry));
    this.#allowShared(handle, sharedBytes);
    return { name: entry, handle, signature };
  }
}

const DEFAULT_SHARED_BYTES = 48 * 1024;
// CUfunction_attribute
const MAX_DYNAMIC_SHARED_BYTES = 8;

/** Allows functions (by their handles) some dynamic shared memory. What one was allowed before stays, if it is more. */
export function sharedMemoryLimits(driver: Pick<Driver, "funcSetAttribute">): (handle: number, bytes: number) => void {
  const allowed = new Map<number, number>();
  return (handle, bytes) => {
    if (bytes <= (allowed.get(handle) ?? DEFAULT_SHARED_BYTES)) return;
    driver.funcSetAttribute(handle, MAX_DYNAMIC_SHARED_BYTES, bytes);
    allowed.set(handle, bytes);
  };
}

function keyOf(file: string, defines: Defines): string {
  return `${file} ${JSON.stringify(defines)}`;
}
