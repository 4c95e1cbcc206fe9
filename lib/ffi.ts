import koffi from "koffi";

/** A shared library that was opened and what it is called. */
export interface Library {
  readonly path: string;
  /** Binds a C function from its prototype, such as `int sum(const int *values, int count)`. Throws where it lacks it. */
  func(prototype: string): (...args: unknown[]) => unknown;
}

const RTLD_NOW = 2;
const RTLD_NODELETE = 0x1000;

/** Opens the first of `paths` that the loader finds, or returns what it said of each. The library stays loaded. */
export function openLibrary(paths: readonly string[]): Library | { readonly tried: readonly string[] } {
  const tried: string[] = [];
  for (const path of paths) {
    try {
      pin(path);
      const library = koffi.load(path);
      return { path, func: (prototype) => library.func(prototype) as (...args: unknown[]) => unknown };
    } catch (error) {
      tried.push(`${path}: ${(error as Error).message}`);
    }
  }
  return { tried };
}

/** A library with threads of its own crashes the process when it is unloaded at exit: never unload it. */
function pin(path: string): void {
  if (process.platform !== "linux") return;
  const dlopen = koffi.load(null).func("void *dlopen(const char *path, int flags)");
  dlopen(path, RTLD_NOW | RTLD_NODELETE);
}
