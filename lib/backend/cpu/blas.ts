import { InputError } from "../../errors.js";
import { type Library, openLibrary } from "../../ffi.js";
import { blockedGemm, type Gemm, THREADED_PRODUCT } from "./gemm.js";

/** The matrix product of the cpu backend and where it comes from. */
export interface Blas {
  readonly gemm: Gemm;
  /**
   * How many rows to give `gemm` at a time, so that a row of its result has the same bits whatever other rows there are
   * (see rowProduct.ts for a faster way). Left out where that is so anyway.
   */
  readonly rows?: number;
  /** Library path, or undefined for the loop of our own. */
  readonly library?: string;
  /** What the library says of itself. */
  readonly description: string;
  /** Where a library was looked for in vain. */
  readonly tried: readonly string[];
}

const candidates: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  linux: ["libopenblas.so.0", "libopenblas.so", "libmkl_rt.so.2", "libmkl_rt.so", "libblis.so.4", "libcblas.so.3"],
  darwin: [
    "/System/Library/Frameworks/Accelerate.framework/Accelerate",
    "/opt/homebrew/opt/openblas/lib/libopenblas.dylib",
    "/usr/local/opt/openblas/lib/libopenblas.dylib",
  ],
  win32: ["libopenblas.dll", "openblas.dll", "mkl_rt.2.dll"],
};

/** OpenBLAS computes eight rows with a kernel in which all are alike; with more of them, some are summed otherwise. */
const ROWS = 8;

const ROW_MAJOR = 101;
const [PLAIN, TRANSPOSED] = [111, 112];

/**
 * Finds a BLAS on the loader's path. The environment variable `ITPO_BLAS` names another library, or is `none` for the
 * blocked loop of our own.
 */
export function findBlas(choice = process.env.ITPO_BLAS): Blas {
  if (choice === "none") return { gemm: blockedGemm, description: "blocked loop (ITPO_BLAS=none)", tried: [] };
  const opened = openLibrary(choice ? [choice] : (candidates[process.platform] ?? []));
  if ("tried" in opened && choice) {
    throw new InputError(`ITPO_BLAS=${choice}: it cannot be opened (${opened.tried[0]}); name a BLAS library, or none`);
  }
  if ("tried" in opened) return { gemm: blockedGemm, description: "blocked loop (no BLAS found)", tried: opened.tried };
  try {
    return { gemm: bindGemm(opened), rows: ROWS, library: opened.path, description: describe(opened), tried: [] };
  } catch (error) {
    if (choice) throw new InputError(`ITPO_BLAS=${choice}: it has no cblas_sgemm; name a BLAS library, or none`);
    return { gemm: blockedGemm, description: "blocked loop", tried: [`${opened.path}: ${(error as Error).message}`] };
  }
}

function bindGemm(library: Library): Gemm {
  const prototype = (name: string, real: string) =>
    `void ${name}(int, int, int, int, int, int, ${real}, const ${real} *, int, const ${real} *, int, ${real}, ${real} *, int)`;
  const sgemm = library.func(prototype("cblas_sgemm", "float"));
  const dgemm = library.func(prototype("cblas_dgemm", "double"));
  const useThreads = threadSwitch(library);
  return (transposeA, transposeB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) => {
    if (m === 0 || n === 0) return;
    const f = c instanceof Float64Array ? dgemm : sgemm;
    useThreads(m * n * k >= THREADED_PRODUCT);
    const [ta, tb] = [transposeA ? TRANSPOSED : PLAIN, transposeB ? TRANSPOSED : PLAIN];
    f(ROW_MAJOR, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  };
}

/**
 * Turns OpenBLAS's threads on or off. Products below `THREADED_PRODUCT` stay on one: its threads wait in a busy loop, so
 * on a machine with other work a small product takes many times as long with them as without.
 */
function threadSwitch(library: Library): (on: boolean) => void {
  try {
    const threads = library.func("int openblas_get_num_threads(void)")() as number;
    const set = library.func("void openblas_set_num_threads(int)");
    let current = true;
    return (on) => {
      if (on !== current) set(on ? threads : 1);
      current = on;
    };
  } catch {
    return () => {};
  }
}

function describe(library: Library): string {
  try {
    return String(library.func("const char *openblas_get_config(void)")()).trim();
  } catch {
    return library.path;
  }
}
